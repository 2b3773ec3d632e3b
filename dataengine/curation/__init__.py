"""Choosing what people should look at: categories, prompts, mining, agreement, balance."""
