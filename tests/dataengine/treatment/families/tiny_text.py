"""Tokenizers made on the spot and text encoders of random weights, for tiny pipelines."""

import string

from tests.dataengine.treatment.tiny import PROMPTS, byte_pairs

WIDTH = 16
"""Channels of every text encoder."""

SPACE = "\u0120"
"""How a byte-level vocabulary writes a space."""

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DECODER = {
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
}
"""What the language models have in common; the wide initial weights keep prompts apart."""


def qwen_tokenizer(limit: int = 2048):
    """Bytes and the prompts' words, with a chat template."""
    from transformers import Qwen2Tokenizer

    words = sorted(set(" ".join(PROMPTS).split()))
    pieces, merges = byte_pairs(words)
    merges += [(SPACE, word) for word in words]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer(
        vocab={
            piece: index
            for index, piece in enumerate(dict.fromkeys([*special, *pieces, *map("".join, merges)]))
        },
        merges=merges,
        additional_special_tokens=special[1:],
        model_max_length=limit,
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def gemma_tokenizer():
    """Single letters."""
    from transformers import GemmaTokenizer

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", "\n"]
    pieces += [letter for letter in string.printable.strip() if letter not in pieces]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    return begun(GemmaTokenizer(vocab=vocab, merges=[], model_max_length=2048))


def begun(tokenizer):
    """The same, which begins every text with its first token, so that an empty one has a token, too."""
    from tokenizers.processors import TemplateProcessing

    first = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A", special_tokens=[(first, tokenizer.bos_token_id)]
    )
    return tokenizer


def qwen3(tokenizer, layers: int, head: bool = False):
    """`Qwen3Model`, or `Qwen3ForCausalLM`."""
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

    config = Qwen3Config(
        **DECODER,
        vocab_size=len(tokenizer),
        num_hidden_layers=layers,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (Qwen3ForCausalLM if head else Qwen3Model)(config)


def qwen2_vl(tokenizer):
    """`Qwen2_5_VLForConditionalGeneration` with two blocks for either kind of input."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        **{name: value for name, value in DECODER.items() if name != "head_dim"},
        "num_hidden_layers": 2,
        "vocab_size": len(tokenizer),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [1, 1, 2],
        },
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": 1,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0],
    }
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))


def qwen3_vl(tokenizer, layers: int = 2, head: bool = False):
    """`Qwen3VLModel`, or `Qwen3VLForConditionalGeneration`, with one block for images."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLModel

    text = {
        **DECODER,
        "num_hidden_layers": layers,
        "vocab_size": len(tokenizer),
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": 1,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    kind = Qwen3VLForConditionalGeneration if head else Qwen3VLModel
    return kind(Qwen3VLConfig(text_config=text, vision_config=vision))


def pixtral_processor():
    """The tokenizer and image processor that Mistral's vision models come with."""
    from transformers import PixtralImageProcessor, PixtralProcessor

    tokenizer = plain_tokenizer(("[IMG]", "[IMG_BREAK]", "[IMG_END]"))
    return PixtralProcessor(PixtralImageProcessor(), tokenizer, chat_template=CHAT)


def plain_tokenizer(special: tuple[str, ...] = ()):
    """`PreTrainedTokenizerFast` of `qwen_tokenizer`'s pieces, as models without a class of their own have."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=qwen_tokenizer().backend_tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(special),
        model_max_length=2048,
    )


def mistral3(tokenizer, layers: int):
    """`Mistral3ForConditionalGeneration`."""
    from transformers import (
        Mistral3Config,
        Mistral3ForConditionalGeneration,
        MistralConfig,
        PixtralVisionConfig,
    )

    text = MistralConfig(
        **DECODER,
        num_hidden_layers=layers,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = PixtralVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        head_dim=8,
        image_size=32,
        patch_size=16,
    )
    return Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision))


def llama(tokenizer):
    """`LlamaForCausalLM` with two blocks."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            **DECODER,
            num_hidden_layers=2,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def gemma2(tokenizer):
    """`Gemma2Model`."""
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(
        Gemma2Config(
            **DECODER,
            vocab_size=len(tokenizer),
            num_hidden_layers=2,
            query_pre_attn_scalar=8,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def t5(tokenizer, width: int = WIDTH):
    """`T5EncoderModel`."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(**_t5_settings(tokenizer, width)))


def umt5(tokenizer):
    """`UMT5EncoderModel`."""
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(UMT5Config(**_t5_settings(tokenizer, WIDTH)))


def _t5_settings(tokenizer, width: int) -> dict:
    return {
        "vocab_size": len(tokenizer),
        "d_model": width,
        "d_kv": 8,
        "d_ff": width,
        "num_layers": 2,
        "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "dropout_rate": 0.0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }


def clip_with_projection(tokenizer, positions: int = 16):
    """`CLIPTextModelWithProjection` with two blocks, of which the last but one is used."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=positions,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def gemma(tokenizer):
    """`GemmaModel` of the first version."""
    from transformers import GemmaConfig, GemmaModel

    return GemmaModel(
        GemmaConfig(
            **DECODER,
            vocab_size=len(tokenizer),
            num_hidden_layers=2,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def glm(tokenizer):
    """`GlmModel`."""
    from transformers import GlmConfig, GlmModel

    return GlmModel(
        GlmConfig(
            **DECODER,
            num_hidden_layers=2,
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def bert_tokenizer():
    """Words and single letters."""
    from transformers import BertTokenizer

    words = sorted({word for prompt in PROMPTS for word in prompt.split()} | set(string.ascii_lowercase))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    return BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, model_max_length=77)


def bert(tokenizer):
    """`BertModel`."""
    from transformers import BertConfig, BertModel

    return BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            initializer_range=0.2,
        )
    )


def qwen2_vl_processor(tokenizer):
    """The tokenizer and image processors that Qwen's vision models come with."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    return Qwen2VLProcessor(Qwen2VLImageProcessor(), tokenizer, Qwen2VLVideoProcessor(), chat_template=CHAT)


def word_tokenizer():
    """`PreTrainedTokenizerFast` of whole words, after a first token, so that prompts of as many words have as
    many tokens."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for prompt in PROMPTS for word in prompt.split()} | set(string.ascii_lowercase))
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    vocab = {piece: index for index, piece in enumerate([*special, *words])}
    plain = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
    plain.pre_tokenizer = Whitespace()
    names = ("pad_token", "bos_token", "eos_token", "unk_token")
    return begun(
        PreTrainedTokenizerFast(
            tokenizer_object=plain, model_max_length=1024, **dict(zip(names, special, strict=True))
        )
    )


def qwen3_vl_processor():
    """The tokenizer and image processors that Qwen3's vision models come with."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    tokenizer = qwen_tokenizer()
    places = ("vision_start", "vision_end", "image_pad", "video_pad")
    tokenizer.add_tokens([f"<|{place}|>" for place in places], special_tokens=True)
    return Qwen3VLProcessor(Qwen2VLImageProcessor(), tokenizer, Qwen3VLVideoProcessor(), chat_template=CHAT)
