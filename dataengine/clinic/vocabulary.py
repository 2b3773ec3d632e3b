"""The tokenizers of the tiny generators: every word of the world is one token, any other text is split into
letters.
"""

import json
import math
import string
from collections import Counter

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5Tokenizer

from dataengine.clinic.world import CATEGORIES, all_prompts

CLIP_TOKENS = 24
T5_TOKENS = 16

_UNSEEN_LETTER = -14.0


def captions() -> list[str]:
    """Every caption of the world, in a fixed order."""
    return [prompt.text for category in CATEGORIES for prompt in all_prompts(category)]


def clip_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding trained on the captions."""
    stock = CLIPTokenizer().backend_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer = Tokenizer(
        models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix="", unk_token="<|endoftext|>")
    )
    tokenizer.normalizer, tokenizer.pre_tokenizer = stock.normalizer, stock.pre_tokenizer
    tokenizer.train_from_iterator(captions(), trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    vocabulary = learned["vocab"]
    # A byte that ends a word needs its own entry, or one-letter words are lost.
    for byte in alphabet:
        vocabulary.setdefault(byte + "</w>", len(vocabulary))
    merges = [tuple(pair) for pair in learned["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_TOKENS)


def t5_tokenizer() -> T5Tokenizer:
    """A unigram vocabulary of the captions' words and all printable characters."""
    words = Counter(word for caption in captions() for word in caption.split())
    total = sum(words.values())
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [("\u2581" + word, math.log(count / total)) for word, count in sorted(words.items())]
    known = {piece for piece, _ in pieces}
    letters = [letter for letter in string.printable[:95].replace(" ", "") + "\u2581" if letter not in known]
    pieces += [(letter, _UNSEEN_LETTER) for letter in letters]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=T5_TOKENS)
