"""Selecting the images to annotate: categories, prompts, mining, agreement, balance."""
