from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

from dataengine.curation.config import VqaConfig
from dataengine.curation.vqa import ClassifierCategorizer, QuestionCategorizer, category_in, load_categorizer
from dataengine.errors import ModelRefused

CATEGORIES = ("hand", "face", "street sign")


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
    words = ["<pad>", "<image>", "[unk]", "hand", "face", "street", "sign", "it", "shows"]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[unk]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[unk]",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    template = (
        "{% for turn in messages %}{% for part in turn['content'] %}"
        "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
        "{% endfor %}{% endfor %}"
    )
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer=fast,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=16, patch_size=8, **sizes),
        text_config=LlamaConfig(vocab_size=len(words), num_key_value_heads=1, pad_token_id=0, **sizes),
        image_token_id=1,
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)  # random weights may well answer with nothing but padding
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    categorizer = load_categorizer(tmp_path, VqaConfig(categories=CATEGORIES))
    assert isinstance(categorizer, QuestionCategorizer)
    said = categorizer.answer(images(1)[0])
    assert said and set(said.split()) <= set(words)
    assert categorizer.categories(images(2))[0] == category_in(said, CATEGORIES)


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
        ("a hand or a face", None),
        ("no idea", None),
        ("", None),
    ],
)
def test_an_answer_names_one_category_or_none(answer: str, category: str | None) -> None:
    expected = (category, 1.0) if category else ("other", 0.0)
    assert category_in(answer, CATEGORIES) == expected


def test_questions_need_different_choices() -> None:
    for wrong in (("hand",), ("hand", " Hand"), ("hand", "")):
        with pytest.raises(ValueError, match="different"):
            VqaConfig(categories=wrong)
