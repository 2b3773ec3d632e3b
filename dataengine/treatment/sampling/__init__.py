"""Sampling, with and without gradient."""
