"""Correct, guide or inpaint while sampling."""
