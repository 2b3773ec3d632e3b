from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from dataengine.curation.config import PromptWriterConfig
from dataengine.curation.prompts import (
    RULES,
    WORDS,
    GrammarWriter,
    ModelWriter,
    jaccard,
    load_model_writer,
    parse_lines,
    words_of,
)
from dataengine.errors import InputRefused

VOCABULARY = (
    "a",
    "hand",
    "holds",
    "red",
    "cup",
    "under",
    "tree",
    "bird",
    "blue",
    "sign",
    "with",
    "two",
    "old",
)


@pytest.mark.parametrize("category", [*RULES, "hands", "Faces", "a red bus"])
def test_the_grammar_writes_different_prompts_for_any_category(category: str) -> None:
    prompts = GrammarWriter().write(category, 60, seed=1)
    assert len(prompts) == 60 and len({prompt.lower() for prompt in prompts}) == 60
    assert not any(mark in prompt for prompt in prompts for mark in "{}|")


def test_a_seed_decides_and_other_seeds_differ() -> None:
    writer = GrammarWriter()
    assert writer.write("hand", 9, 1) == writer.write("hand", 9, 1) != writer.write("hand", 9, 2)


def test_what_is_to_be_avoided_is_avoided() -> None:
    writer = GrammarWriter({"": ("{colour} {category}",)}, {"colour": "red|green|blue"})
    assert sorted(writer.write("bus", 3, 0)) == ["blue bus", "green bus", "red bus"]
    assert sorted(writer.write("bus", 2, 0, avoid=["RED  bus"])) == ["blue bus", "green bus"]
    with pytest.raises(InputRefused, match="only 2 of 3"):
        writer.write("bus", 3, 0, avoid=["red bus"])


def test_every_slot_of_the_grammar_can_be_filled() -> None:
    slots = {slot for forms in RULES.values() for form in forms for slot in words_between_braces(form)}
    assert slots - {"category"} == set(WORDS)


def words_between_braces(form: str) -> set[str]:
    return {part.split("}")[0] for part in form.split("{")[1:]}


def test_answers_are_parsed_strictly() -> None:
    answer = (
        """Here are some prompts:
1. A nurse waving on a rooftop
2) "An old man counting coins"
- a hand holding a cup

  * hands
I hope this helps, """
        + "very " * 70
    )
    assert parse_lines(answer, (3, 60)) == [
        "A nurse waving on a rooftop",
        "An old man counting coins",
        "a hand holding a cup",
    ]


def test_likeness_is_the_share_of_common_words() -> None:
    assert jaccard(words_of("A red bus, parked"), words_of("a RED bus")) == 3 / 4
    assert jaccard(words_of(""), words_of("")) == 1


def test_a_model_is_asked_until_there_are_enough_and_near_duplicates_go() -> None:
    answers = iter(
        [
            "1. a nurse waves at the sea\n2. a nurse waves at the sea!\n3. an old farmer counts his coins",
            "a farmer old counts his coins, an\na child peels one apple\na boy plays the loud drum",
        ]
    )
    asked: list[tuple[str, int, int]] = []

    def complete(request: str, seed: int, new_tokens: int) -> str:
        asked.append((request, seed, new_tokens))
        return next(answers)

    config = PromptWriterConfig(per_request=3, new_tokens=20)
    writer = ModelWriter(complete, config)
    assert writer.write("hand", 3, 7, avoid=["a boy plays the LOUD drum"]) == [
        "a nurse waves at the sea",
        "an old farmer counts his coins",
        "a child peels one apple",
    ]
    assert [(seed, tokens) for _, seed, tokens in asked] == [(7, 60), (8, 60)]
    assert "hand" in asked[0][0] and "3" in asked[0][0]


def test_a_model_that_brings_nothing_new_is_given_up() -> None:
    writer = ModelWriter(
        lambda request, seed, tokens: "the same old line again", PromptWriterConfig(attempts=2)
    )
    with pytest.raises(InputRefused, match="only 1 of 2"):
        writer.write("hand", 2, 0)


def test_a_causal_language_model_of_transformers_writes(tmp_path: Path) -> None:
    words = [
        "[unk]",
        "\n",
        *VOCABULARY,
    ]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[unk]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[unk]", model_input_names=["input_ids", "attention_mask"]
    )
    fast.save_pretrained(tmp_path)
    config = GPT2Config(vocab_size=len(words), n_positions=512, n_embd=8, n_layer=1, n_head=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    settings = PromptWriterConfig(per_request=4, new_tokens=30, words=(2, 200), similarity=1.0)
    writer = load_model_writer(tmp_path, settings)
    prompts = writer.write("hand", 2, seed=3)
    assert len(set(prompts)) == 2
    assert all(set(words_of(prompt)) <= {word.strip("[]") for word in words} for prompt in prompts)
    assert load_model_writer(tmp_path, settings).write("hand", 2, seed=3) == prompts


def test_other_braces_in_a_request_stay() -> None:
    config = PromptWriterConfig(request="Answer {n} lines as {json: yes} about {category}.", per_request=4)
    assert config.request_text("a {cat}") == "Answer 4 lines as {json: yes} about a {cat}."
