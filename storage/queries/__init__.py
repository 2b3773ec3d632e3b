"""Read models for pages and commands, one module per noun."""
