"""Gradio components: the mask editor, also built as a wheel of its own."""
