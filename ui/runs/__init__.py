"""The runs desk."""
