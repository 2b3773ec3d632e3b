"""The treatment desk."""
