"""Content policies: what a page may load and run. A desk states its own (`Desk.policy`)."""

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

INLINE = re.compile(rb"<script(?P<attributes>[^>]*)>(?P<body>.*?)</script>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ContentPolicy:
    """The directives of a Content-Security-Policy but `frame-ancestors`, which is the server's setting."""

    directives: tuple[tuple[str, str], ...]
    hash_inline: bool = False
    """Allow the inline scripts of a served page, and no other, by their hashes."""

    def header(self, embed_in: Sequence[str] = (), inline: Iterable[str] = ()) -> str:
        """The header's value; `embed_in` are the origins that may frame the page, `inline` sources of
        scripts."""
        scripts = "".join(f" {source}" for source in inline)
        own = [f"{name} {value}{scripts if name == 'script-src' else ''}" for name, value in self.directives]
        framers = " ".join(embed_in) or "'none'"
        return "; ".join([*own, f"frame-ancestors {framers}"])


PAGES = ContentPolicy(
    (
        ("default-src", "'none'"),
        ("script-src", "'self'"),
        ("style-src", "'self'"),
        ("img-src", "'self' blob: data:"),
        ("connect-src", "'self'"),
        ("worker-src", "'self'"),
        ("form-action", "'self'"),
        ("base-uri", "'none'"),
    )
)
"""Our own pages: files of this server alone."""
GRADIO = ContentPolicy(
    (
        ("default-src", "'self'"),
        ("script-src", "'self'"),
        ("style-src", "'self' 'unsafe-inline'"),
        ("img-src", "'self' blob: data:"),
        ("font-src", "'self' data:"),
        ("connect-src", "'self' blob: data:"),
        ("worker-src", "'self' blob:"),
        ("object-src", "'none'"),
        ("form-action", "'self'"),
        ("base-uri", "'self'"),
    ),
    hash_inline=True,
)
"""Gradio apps of its plain components: it injects styles, and its page has inline scripts."""
GRADIO_HTML = ContentPolicy(
    tuple(
        (name, "'self' 'unsafe-inline' 'unsafe-eval' blob:" if name == "script-src" else value)
        for name, value in GRADIO.directives
    )
)
"""Gradio apps with `gr.HTML` components, whose templates and scripts Gradio compiles in the browser."""


def inline_sources(page: bytes) -> list[str]:
    """The policy's source for each inline script of an HTML page: `'sha256-…'` of what stands between its
    tags."""
    bodies = (
        script["body"] for script in INLINE.finditer(page) if b" src=" not in script["attributes"].lower()
    )
    return [f"'sha256-{b64encode(hashlib.sha256(body).digest()).decode()}'" for body in bodies]
