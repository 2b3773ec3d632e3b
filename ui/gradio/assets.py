"""Markup, style and script of the mask editor, made of the annotation page's own files."""


def html(height: int) -> str:
    """The markup of one editor."""
    return f'<div class="mask-editor" style="height: {height}px"></div>'


def css() -> str:
    """The style, which Gradio scopes to one editor."""
    return ""


def javascript() -> str:
    """The body of the function that Gradio runs for each editor."""
    return ""


def head() -> str:
    """What goes into the page's head once for all editors."""
    return ""
