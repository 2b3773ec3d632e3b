"""Markup, style and script of the mask editor, made of the annotation page's own files.

Gradio wants the script as the body of one function, so ES modules are put one after the other into it, each
in a function of its own that returns what it exports. That takes the plain forms that our modules use; any
other `import` or `export` is refused.
"""

import json
import posixpath
import re
from functools import cache
from pathlib import Path

UI = Path(__file__).resolve().parents[1]
HERE = Path(__file__).parent / "static"
PAGE = UI / "annotate" / "page.html"
STYLES = (UI / "annotate" / "static" / "annotate.css", HERE / "mask_editor.css")
ENTRY = "/static/gradio/mask_editor.js"
WORKER = "/static/annotate/codec_worker.js"

IMPORT = re.compile(r'^import \{([^}]*)\} from "([^"]+)";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const) ([\w$]+))", re.MULTILINE)
OTHER = re.compile(r"^(?:import\b|export\b|await\b).*|\bimport\(.*|\bimport\.meta\b.*", re.MULTILINE)
COMMENT = re.compile(r"^ *//.*\n", re.MULTILINE)
DESK_ONLY = re.compile(r"^ *\{# desk #\}\n.*?\{# /desk #\}\n", re.MULTILINE | re.DOTALL)
CLASS_COLOUR = re.compile(r"--class-\d+: #\w+;")


@cache
def html() -> str:
    """The markup of one editor; its parts carry `data-id`, since several may stand on one page."""
    page = DESK_ONLY.sub("", PAGE.read_text(encoding="utf-8"))
    start, end = page.index('<section class="stage"'), page.index("</aside>")
    parts = re.sub(r'\bid="', 'data-id="', page[start:end])
    own = (HERE / "mask_editor.html").read_text(encoding="utf-8")
    return _constant(own.replace("<!-- stage and tools -->", parts))


@cache
def css() -> str:
    """The style, which Gradio nests in one editor's own selector."""
    return _constant("\n".join(style.read_text(encoding="utf-8") for style in STYLES))


@cache
def javascript() -> str:
    """The body of the function that Gradio runs for each editor, with `element`, `props`, `trigger` and
    `watch`."""
    worker = json.dumps(bundle(WORKER)[0])
    body, modules = bundle(ENTRY)
    return f"{body}{modules[ENTRY]}.mount({{ element, props, trigger, watch }}, {worker});\n"


@cache
def head() -> str:
    """The colours of the classes, which the script reads from the page; a page's own come first."""
    style = (UI / "web" / "static" / "style.css").read_text(encoding="utf-8")
    return f"<style>:where(:root) {{ {' '.join(CLASS_COLOUR.findall(style))} }}</style>"


def bundle(entry: str) -> tuple[str, dict[str, str]]:
    """The modules that `entry` needs as statements, lowest first, and the name that each has there.

    Raises `ValueError` for a module whose imports or exports have another form, or that import in a circle.
    """
    names: dict[str, str] = {}
    parts: list[str] = []
    _add(entry, names, parts, ())
    return '"use strict";\n' + "".join(parts), names


def _add(address: str, names: dict[str, str], parts: list[str], above: tuple[str, ...]) -> None:
    if address in above:
        raise ValueError(f"{address} imports itself by way of {' and '.join(above)}")
    if address in names:
        return
    source = COMMENT.sub("", _file_of(address).read_text(encoding="utf-8"))
    imports = IMPORT.findall(source)
    for _, needed in imports:
        _add(_resolve(needed, address), names, parts, (*above, address))
    exported = EXPORT.findall(source)
    body = EXPORT.sub("", IMPORT.sub("", source))
    if other := OTHER.search(body):
        raise ValueError(f"{address} cannot be bundled: {other.group()!r} is not a form that is known here")
    taken = "".join(
        f"const {{ {' '.join(what.replace(' as ', ': ').split())} }} = {names[_resolve(needed, address)]};\n"
        for what, needed in imports
    )
    names[address] = f"module{len(names)}"
    returned = f"return {{ {', '.join(exported)} }};\n"
    parts.append(f"const {names[address]} = (() => {{\n{taken}{body}{returned}}})();\n")


def _resolve(needed: str, address: str) -> str:
    """The address of a module that the one at `address` imports."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(address), needed))


def _file_of(address: str) -> Path:
    """The file behind an address of the web server."""
    *desk, name = address.removeprefix("/static/").split("/")
    return UI / (desk[0] if desk else "web") / "static" / name


def _constant(text: str) -> str:
    """The text, which Gradio would otherwise take for a template. Raises `ValueError`."""
    if found := re.search(r"\{\{|\$\{|`|\\", text):
        raise ValueError(f"Gradio would evaluate {found.group()!r} near {text[found.start() :][:60]!r}")
    return text
