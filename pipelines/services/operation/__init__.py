"""What operators need: figures to watch, logs, webhooks."""
