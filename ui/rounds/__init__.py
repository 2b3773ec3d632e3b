"""The rounds desk."""
