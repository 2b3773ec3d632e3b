"""One file per tab of the Gradio app: what it shows, and handlers that call a service."""
