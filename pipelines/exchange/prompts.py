"""Prompts that image generators write into their files or beside them.

AUTOMATIC1111 and its kin write "parameters": the prompt, "Negative prompt: …", and a last line of settings
such as "Steps: 20, Sampler: Euler a, Seed: 7". ComfyUI writes "prompt": the JSON of its graph, in which the
prompt is the text that leads to a sampler's positive input. Both use text chunks in PNG and EXIF elsewhere.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from dataengine.bounds import allowance, check_json
from dataengine.errors import InputRefused

NEGATIVE = "Negative prompt:"
SETTINGS = re.compile(r"^\s*Steps: \d+(,|$)")
SETTING = re.compile(r'\s*(\w[\w \-/]*): *("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')
DEPTH = 30
"""Nodes between a sampler and its prompt at most."""


def parse_parameters(text: str) -> dict[str, Any]:
    """AUTOMATIC1111's text as metadata; a text without its last line is a prompt alone."""
    lines = text.strip().splitlines()
    if not lines or not SETTINGS.match(lines[-1]):
        return {"prompt": text.strip()}
    said = {name.strip(): value.strip().strip('"') for name, value in SETTING.findall(lines.pop())}
    prompt, _, negative = "\n".join(lines).partition(NEGATIVE)
    settings = {name: value for name, value in said.items() if name != "Seed"}
    if negative.strip():
        settings["Negative prompt"] = negative.strip()
    return {"prompt": prompt.strip(), "seed": said.get("Seed"), "settings": settings}


def parse_graph(text: str) -> dict[str, Any]:
    """ComfyUI's graph as metadata; {} if it has no sampler with one prompt."""
    try:
        check_json(text.encode(), allowance(len(text)), "the graph")
        graph = json.loads(text)
    except (ValueError, RecursionError, InputRefused):
        return {}
    nodes = graph if isinstance(graph, dict) else {}
    found = {}
    for node in nodes.values():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        if (
            isinstance(inputs, dict)
            and "positive" in inputs
            and (said := _text_of(nodes, inputs["positive"]))
        ):
            seeds = [inputs.get(name) for name in ("seed", "noise_seed")]
            seed = next((each for each in seeds if isinstance(each, int)), None)
            found[said] = {"prompt": said, "seed": seed}
    return found.popitem()[1] if len(found) == 1 else {}


def _text_of(nodes: Mapping[str, Any], link: Any) -> str:
    """The text that a link leads to, through nodes that pass it on."""
    for _ in range(DEPTH):
        node = nodes.get(str(link[0])) if isinstance(link, list) and link else None
        inputs = node.get("inputs") if isinstance(node, dict) else None
        if not isinstance(inputs, dict):
            return ""
        text = inputs.get("text", inputs.get("string"))
        if isinstance(text, str):
            return text.strip()
        link = text if text is not None else inputs.get("conditioning", inputs.get("positive"))
    return ""
