"""Selections of images, and work on them."""
