"""What operators need: logs and webhooks."""
