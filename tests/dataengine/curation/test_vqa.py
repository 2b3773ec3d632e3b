from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    ResNetConfig,
    ResNetForImageClassification,
    ViltConfig,
    ViltForQuestionAnswering,
    ViltImageProcessor,
    ViltProcessor,
    ViTImageProcessor,
)

from dataengine.curation.answers import AnswerCache
from dataengine.curation.config import VqaConfig
from dataengine.curation.vqa import ClassifierCategorizer, QuestionCategorizer, category_in, load_categorizer
from dataengine.errors import ModelRefused
from tests.dataengine.curation.tiny import WORDS, save_llava

CATEGORIES = ("hand", "face", "street sign")
CONFIG = VqaConfig(categories=CATEGORIES, answers={"finger": "hand", "letters": "street sign"})


def images(count: int, side: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_a_classifier_from_a_folder_answers_with_its_labels(tmp_path: Path) -> None:
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8],
        depths=[1, 1],
        layer_type="basic",
        id2label=dict(enumerate(CATEGORIES)),
        label2id={name: i for i, name in enumerate(CATEGORIES)},
    )
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    categorizer = load_categorizer(tmp_path)
    assert isinstance(categorizer, ClassifierCategorizer) and categorizer.name == tmp_path.name
    answers = categorizer.categories(images(5))
    assert len(answers) == 5
    assert all(category in CATEGORIES and 1 / 3 <= confidence <= 1 for category, confidence in answers)
    assert answers == load_categorizer(tmp_path).categories(images(5))


def test_a_generative_model_is_asked_and_answers_in_words(tmp_path: Path) -> None:
    torch.manual_seed(0)  # random weights may well answer with nothing but padding
    save_llava(tmp_path)
    categorizer = load_categorizer(tmp_path, CONFIG)
    assert isinstance(categorizer, QuestionCategorizer)
    said = categorizer.answer(images(1)[0])
    assert said and set(said.split()) <= set(WORDS)
    assert categorizer.categories(images(2))[0] == category_in(said, CONFIG)


def test_what_is_no_vision_model_is_refused(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ModelRefused, match="BertModel"):
        load_categorizer(tmp_path)


@pytest.mark.parametrize(
    ("answer", "category"),
    [
        ("hand", "hand"),
        (" It shows two Hands. ", "hand"),
        ("a street-sign", "street sign"),
        ("handle", None),
        ("two fingers of a hand", "hand"),
        ("Letters!", "street sign"),
        ("a finger on a face", None),
        ("a hand or a face", None),
        ("no idea", None),
        ("", None),
    ],
)
def test_an_answer_names_one_category_or_none(answer: str, category: str | None) -> None:
    expected = (category, 1.0) if category else ("other", 0.0)
    assert category_in(answer, CONFIG) == expected


def test_the_question_is_put_with_its_choices_or_as_it_is() -> None:
    assert CONFIG.question_text.endswith("exactly one of: hand, face, street sign.")
    assert VqaConfig(question="What is shown {here}?").question_text == "What is shown {here}?"
    with pytest.raises(ValueError, match="must map"):
        VqaConfig(categories=CATEGORIES, answers={"paw": "animal"})


class Parrot:
    """Says what it was given, and counts."""

    name = "parrot"

    def __init__(self, *words: str) -> None:
        self.words = list(words)

    def answer(self, image: np.ndarray) -> str:
        return self.words.pop(0)


def test_answers_are_kept_and_a_changed_table_asks_nobody(tmp_path: Path) -> None:
    pictures = images(3)
    first = QuestionCategorizer(Parrot("hand", "paw", ""), CONFIG, AnswerCache(tmp_path, "m", "q"))
    assert [category for category, _ in first.categories(pictures)] == ["hand", "other", "other"]
    assert first.other == 2
    paws = CONFIG.model_copy(update={"answers": {"paw": "hand"}})
    again = QuestionCategorizer(Parrot("face"), paws, AnswerCache(tmp_path, "m", "q"))
    assert [category for category, _ in again.categories(pictures)] == ["hand", "hand", "face"]
    assert len(AnswerCache(tmp_path, "m", "other question")) == 0


def test_a_torn_line_of_kept_answers_is_skipped(tmp_path: Path) -> None:
    first, second, third = images(3)
    kept = AnswerCache(tmp_path, "m", "q")
    kept.keep(first, "hand")
    kept.keep(second, "face")
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-4])
    kept = AnswerCache(tmp_path, "m", "q")
    assert (kept.get(first), kept.get(second)) == ("hand", None)
    kept.keep(third, "sign")
    assert AnswerCache(tmp_path, "m", "q").get(third) == "sign"


def test_a_classic_model_chooses_an_answer(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "shown", "?"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    config = ViltConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=16,
        image_size=32,
        patch_size=16,
        max_position_embeddings=16,
        type_vocab_size=2,
        id2label={0: "hand", 1: "two faces"},
        label2id={"hand": 0, "two faces": 1},
    )
    torch.manual_seed(0)
    ViltForQuestionAnswering(config).save_pretrained(tmp_path)
    ViltProcessor(ViltImageProcessor(size={"shortest_edge": 32}), tokenizer).save_pretrained(tmp_path)
    asked = CONFIG.model_copy(update={"question": "what is shown ?"})
    categorizer = load_categorizer(tmp_path, asked, keep=tmp_path / "kept")
    assert isinstance(categorizer, QuestionCategorizer)
    said = [categorizer.answer(image) for image in images(2)]
    assert set(said) <= {"hand", "two faces"}
    assert {category for category, _ in categorizer.categories(images(2))} <= {"hand", "face"}
    assert len(AnswerCache(tmp_path / "kept", str(tmp_path), asked.question_text)) == 2


def test_questions_need_different_choices() -> None:
    for wrong in (("hand",), ("hand", " Hand"), ("hand", "")):
        with pytest.raises(ValueError, match="distinct"):
            VqaConfig(categories=wrong)
