"""The training desk."""
