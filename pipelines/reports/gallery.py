"""Galleries as one self-contained HTML page, in the reader's light or dark colour scheme.

A gallery is a template that extends `page.html`; every value in it is escaped, and every image embedded.
"""

import base64
import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, Template
from PIL import Image

from dataengine.records import count_of

MOST = 200
"""Images on a page; the report lists all."""
SIDE = 640
"""Longest side of an image on a page, in pixels."""
QUALITY = 88


def embed(pixels: np.ndarray, side: int = SIDE) -> str:
    """A uint8 HW3 image, at most `side` pixels long, as a data URI; small ones without loss."""
    image = Image.fromarray(pixels)
    lossless = max(image.size) <= side // 4
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    body = io.BytesIO()
    image.save(body, "PNG" if lossless else "JPEG", quality=QUALITY)
    return as_data_uri(body.getvalue(), "image/png" if lossless else "image/jpeg")


def as_data_uri(data: bytes, media_type: str) -> str:
    """A file as the address of an image that a page holds itself."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def render_page(template: Path, **values: Any) -> str:
    """The page of a template."""
    return _template(template).render(**values)


@cache
def _template(path: Path) -> Template:
    environment = Environment(
        autoescape=True, loader=FileSystemLoader([path.parent, Path(__file__).parent]), auto_reload=False
    )
    environment.filters["confidence"] = lambda value: f"{value:.2f}"
    environment.filters["count_of"] = count_of
    return environment.get_template(path.name)
