"""Prompts for a category: from a grammar, offline, or by a language model (DiffDoctor, Sec. 3.2)."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.curation.config import PromptWriterConfig
from dataengine.curation.endpoints import Endpoint, NoAnswer, is_endpoint
from dataengine.errors import InputRefused
from dataengine.model_files import check_model_folder

Rules = Mapping[str, Sequence[str]]

SLOT = re.compile(r"\{(\w+)\}")
NUMBERING = re.compile(r"^\s*(?:[-•]|\*(?!\*)|(?:\*\*)?\(?\d{1,3}[.):](?:\*\*)?)\s*")
FENCED = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^\*\*[^*]+\*\*\s*(?:[-–—:]\s+)+(?=\S)")
QUOTES = {'"': '"', "“": "”", "„": "“", "'": "'", "‘": "’", "«": "»", "`": "`"}
MAX_FRUITLESS_SAMPLES = 200
"""Consecutive samples without a new prompt after which a grammar counts as exhausted."""

RULES: Rules = {
    "hand": (
        "a close-up of the hand of {person} {gesture}, {look}",
        "{person} {gesture}, {place}, {look}",
        "the hands of {person} and {person}, both {gesture}, {look}",
    ),
    "face": (
        "a portrait of {person}, {mood}, {place}, {look}",
        "the face of {person}, {mood}, seen {view}, {look}",
        "{person} and {person}, {mood}, {place}, {look}",
    ),
    "person": (
        "{person} {activity}, {place}, {look}",
        "a full-body picture of {person} {activity}, seen {view}, {look}",
        "a crowd around {person} {activity}, {place}, {look}",
    ),
    "word": (
        'a {sign} that says "{word}", {place}, {look}',
        'the word "{word}" on a {sign}, seen {view}, {look}',
        '{person} with a {sign} that reads "{word} {word}", {look}',
    ),
    "animal": (
        "{animal} {motion}, {place}, {look}",
        "{animal} seen {view}, {place}, {look}",
        "{animal} and {animal}, both {motion}, {look}",
    ),
    "": (
        "a picture of {category}, {place}, {look}",
        "{category}, seen {view}, {look}",
        "a detailed study of {category}, {place}, seen {view}, {look}",
    ),
}
"""Prompt templates by category; those of "" are used for every other category."""

WORDS: Mapping[str, str] = {
    "person": (
        "a young woman|an old man|a child|a dancer|a nurse|a farmer|a violinist|a chess player|a baker|"
        "a climber|a teacher|a fisherman|a painter|a grandmother|a boy|a potter"
    ),
    "gesture": (
        "waving|holding a cup of tea|playing the piano|tying a shoelace|counting coins|peeling an apple|"
        "typing|writing with a pen|pointing at the sky|knitting|holding a phone|shuffling cards|"
        "lighting a candle|making a heart sign|cutting paper with scissors|holding a small bird"
    ),
    "activity": (
        "running|doing yoga|riding a bicycle|carrying a ladder|dancing|climbing stairs|skating|rowing a boat|"
        "jumping over a puddle|digging a garden|playing tennis|juggling|sitting on a swing"
    ),
    "mood": "laughing|thoughtful|surprised|tired|proud|frowning|smiling shyly|in tears",
    "place": (
        "in a kitchen|on a busy street|in a sunlit park|at the seaside|in a workshop|in a library|in a train|"
        "on a mountain path|at a market|in an empty theatre|in the rain|on a rooftop"
    ),
    "view": "from above|from below|from the side|in a mirror|through a window|from far away",
    "look": (
        "photograph, soft daylight|photograph, night, neon light|oil painting|film still|watercolour|"
        "studio photograph|photograph, golden hour|3D rendering|black and white photograph|comic panel"
    ),
    "sign": "neon sign|shop window|street sign|book cover|birthday cake|poster|T-shirt|blackboard",
    "word": "OPEN|WELCOME|Bakery|Library|Good morning|SALE|Museum|Coffee|Ocean|Harvest",
    "animal": (
        "a horse|a cat|a dog|an elephant|a fox|an owl|an octopus|a deer|a giraffe|a lizard|a crab|a swan"
    ),
    "motion": "running|asleep|jumping|eating|drinking|shaking off water|looking back|hiding",
}
"""The words of each slot, separated by "|"."""


class GrammarWriter:
    """Expands templates like "{animal} {motion}, {place}" with words sampled at random."""

    def __init__(self, rules: Rules = RULES, words: Mapping[str, str] = WORDS) -> None:
        self._rules = rules
        self._words = words

    def write(self, category: str, n: int, seed: int, avoid: Collection[str] = ()) -> list[str]:
        """`n` distinct prompts of the category, none equal to one of `avoid` up to case and spaces;
        reproducible by seed.

        Raises `InputRefused` when it finds fewer.
        """
        rng = np.random.default_rng(seed)
        seen = {normalise_prompt(text) for text in avoid}
        written: list[str] = []
        fruitless = 0
        while len(written) < n and fruitless < MAX_FRUITLESS_SAMPLES:
            text = self._expand(self._pick(self._forms(category), rng), category, rng)
            fruitless += 1
            if normalise_prompt(text) not in seen:
                seen.add(normalise_prompt(text))
                written.append(text)
                fruitless = 0
        return _enough(written, n, category)

    def _forms(self, category: str) -> Sequence[str]:
        name = category.strip().lower()
        return self._rules.get(name) or self._rules.get(name.removesuffix("s")) or self._rules[""]

    def _expand(self, form: str, category: str, rng: np.random.Generator) -> str:
        def fill(slot: re.Match[str]) -> str:
            return category if slot[1] == "category" else self._pick(self._words[slot[1]].split("|"), rng)

        return SLOT.sub(fill, form)

    @staticmethod
    def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
        return choices[int(rng.integers(len(choices)))]


class ModelWriter:
    """Calls a causal language model until there are enough prompts."""

    def __init__(self, complete: Callable[[str, int, int], str], config: PromptWriterConfig) -> None:
        self._complete = complete
        self._config = config

    def write(self, category: str, n: int, seed: int, avoid: Collection[str] = ()) -> list[str]:
        """As `GrammarWriter.write`; near-duplicates, by common words, are dropped."""
        config = self._config
        known = [words_of(text) for text in avoid]
        written: list[str] = []
        fruitless = 0
        request = 0
        problem = ""
        while len(written) < n and fruitless < config.attempts:
            request_text = config.request_text(category)
            try:
                answer = self._complete(request_text, seed + request, config.per_request * config.new_tokens)
            except NoAnswer as error:
                answer, problem = "", str(error)
            fresh = _fresh(parse_lines(answer, config.words), known, config.similarity)
            known += [words_of(text) for text in fresh]
            written += fresh
            fruitless = 0 if fresh else fruitless + 1
            request += 1
        return _enough(written[:n], n, category, problem)


def load_model_writer(
    location: str | Path, config: PromptWriterConfig | None = None, device: str = "cpu"
) -> ModelWriter:
    """A writer over a causal language model of transformers, from a folder or hub id (safetensors only), or
    over an endpoint's URL (see `Endpoint`).
    """
    config = config or PromptWriterConfig()
    if is_endpoint(location):
        endpoint = Endpoint(str(location), config.endpoint)
        return ModelWriter(partial(endpoint.complete, temperature=config.temperature), config)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if Path(location).is_dir():
        check_model_folder(Path(location))
    tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False)
    safe: Any = {"use_safetensors": True, "trust_remote_code": False}
    model: Any = AutoModelForCausalLM.from_pretrained(location, **safe).to(device).eval()

    def complete(request: str, seed: int, new_tokens: int) -> str:
        text = request
        if tokenizer.chat_template:
            turns = [{"role": "user", "content": request}]
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        tokens = tokenizer(text, return_tensors="pt").to(device)
        torch.manual_seed(seed)
        with torch.no_grad():
            output = model.generate(
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
                do_sample=True,
                temperature=config.temperature,
                max_new_tokens=new_tokens,
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id or 0,
            )
        return tokenizer.decode(output[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True)

    return ModelWriter(complete, config)


def parse_lines(answer: str, words: tuple[int, int]) -> list[str]:
    """Parse the prompts in a model's answer: of a sensible length, without numbering, headings and quotes.

    They are the texts of a JSON list, or else one per line: those of a code block if there is one, those with
    a number or bullet if there are several.
    """
    fenced = "\n".join(FENCED.findall(answer)) or answer
    listed = _texts_in_json(fenced)
    lines = fenced.splitlines() if listed is None else listed
    numbered = [line for line in lines if NUMBERING.match(line)]
    prompts = []
    for line in numbered if len(numbered) > 1 else lines:
        text = _plain(NUMBERING.sub("", line).strip())
        if words[0] <= len(text.split()) <= words[1] and not text.endswith(":"):
            prompts.append(text)
    return prompts


def _texts_in_json(text: str) -> list[str] | None:
    """All texts of a JSON list, or of the lists in a JSON object; None for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict):
        found = [each for value in found.values() if isinstance(value, list) for each in value]
    if not isinstance(found, list):
        return None
    flat = [list(each.values()) if isinstance(each, dict) else [each] for each in found]
    return [text for values in flat for text in values if isinstance(text, str)]


def _plain(text: str) -> str:
    """A line without heading, emphasis and the quotes around it."""
    text = HEADING.sub("", text)
    while len(text) > 1 and (
        QUOTES.get(text[0]) == text[-1] or (text.startswith("**") and text.endswith("**") and len(text) > 4)
    ):
        text = text.strip("*").strip() if text[0] == "*" else text[1:-1].strip()
    return text


def normalise_prompt(text: str) -> str:
    """The text in lower case with single spaces."""
    return " ".join(text.lower().split())


def words_of(text: str) -> frozenset[str]:
    """The set of words of a prompt."""
    return frozenset(re.findall(r"\w+", text.lower()))


def jaccard(first: Collection[str], second: Collection[str]) -> float:
    """Jaccard similarity of the words of two prompts, in [0, 1]."""
    union = set(first) | set(second)
    return len(set(first) & set(second)) / len(union) if union else 1.0


def _fresh(texts: Iterable[str], known: Sequence[frozenset[str]], similarity: float) -> list[str]:
    """The prompts that are no near-duplicates of a known prompt or of an earlier one."""
    kept: list[str] = []
    seen = list(known)
    for text in texts:
        words = words_of(text)
        if all(jaccard(words, other) < similarity for other in seen):
            kept.append(text)
            seen.append(words)
    return kept


def _enough(written: list[str], n: int, category: str, problem: str = "") -> list[str]:
    if len(written) < n:
        because = f" ({problem})" if problem else ""
        raise InputRefused(
            f"only {len(written)} of {n} new prompts for {category!r} could be written{because}; "
            "request fewer, avoid fewer, or use another writer"
        )
    return written
