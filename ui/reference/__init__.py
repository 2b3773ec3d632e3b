"""The public description of the API, and its page."""
