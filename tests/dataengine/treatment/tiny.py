"""Diffusers pipelines small enough for a test, built from configs, with tokenizers trained on the spot."""

from pathlib import Path

import torch

SIDE = 32
PROMPTS = ("a red house", "a blue tree", "two cats on a mat", "a sign that says yes")


def byte_pairs(words, end=""):
    """Vocabulary and merges of a byte-level encoding that has each of the words as one token."""
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(letter + end for letter in alphabet if end)]
    merges = []
    for word in words:
        first, *others = [*word[:-1], word[-1] + end]
        for letter in others:
            merges.append((first, letter))
            first += letter
    merges = list(dict.fromkeys(merges))
    return list(dict.fromkeys([*pieces, *map("".join, merges)])), merges


def clip_tokenizer():
    """Byte pairs of the prompts' words."""
    from transformers import CLIPTokenizer

    pieces, merges = byte_pairs(sorted(set(" ".join(PROMPTS).split())), end="</w>")
    vocab = {piece: index for index, piece in enumerate(["<|startoftext|>", "<|endoftext|>", *pieces])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=16)


def t5_tokenizer():
    """The prompts' words and all letters."""
    import string

    from transformers import T5Tokenizer

    words = sorted({word for prompt in PROMPTS for word in prompt.split()})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [("\u2581" + word, -3.0) for word in words]
    known = {piece for piece, _ in pieces}
    pieces += [(letter, -14.0) for letter in string.ascii_lowercase + "\u2581" if letter not in known]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=12)


def clip_encoder(tokenizer):
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            projection_dim=32,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def autoencoder(channels=(8, 16, 16), **kwargs):
    """Four latent channels; every level but the first halves the sides."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        latent_channels=kwargs.pop("latent_channels", 4),
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=SIDE,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=False,
        **kwargs,
    )


def saved(pipeline, folder: Path) -> Path:
    """Save it, and return the folder."""
    pipeline.save_pretrained(folder)
    return folder


def flux(folder: Path, **kwargs) -> Path:
    """A saved `flux_pipeline`."""
    return saved(flux_pipeline(**kwargs), folder)


def flux_pipeline(guidance_embeds: bool = False, dynamic_shift: bool = False, heads: int = 2):
    """A `FluxPipeline` of random weights; with embedded guidance and dynamic shift it stands for dev."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    clip, t5 = clip_tokenizer(), t5_tokenizer()
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0 if dynamic_shift else 1.0, use_dynamic_shifting=dynamic_shift
        ),
        vae=autoencoder(scaling_factor=0.7, shift_factor=0.1),
        text_encoder=clip_encoder(clip),
        tokenizer=clip,
        text_encoder_2=T5EncoderModel(
            T5Config(
                vocab_size=len(t5),
                d_model=32,
                d_kv=16,
                d_ff=32,
                num_layers=1,
                num_heads=2,
                feed_forward_proj="gated-gelu",
                tie_word_embeddings=False,
                dropout_rate=0.0,
                pad_token_id=0,
                eos_token_id=1,
            )
        ),
        tokenizer_2=t5,
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=heads,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 6, 6),
        ),
    )


def stable_diffusion(folder: Path, **scheduler) -> Path:
    """A saved `stable_diffusion_pipeline`."""
    return saved(stable_diffusion_pipeline(**scheduler), folder)


def stable_diffusion_pipeline(**scheduler):
    """A `StableDiffusionPipeline` of random weights with DDIM."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    settings = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    return StableDiffusionPipeline(
        vae=autoencoder(scaling_factor=0.7, shift_factor=0.1),
        text_encoder=clip_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=SIDE // 4,
            in_channels=4,
            out_channels=4,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=32,
            attention_head_dim=2,
            norm_num_groups=8,
        ),
        scheduler=DDIMScheduler(**{**settings, **scheduler}),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def ddpm(folder: Path, learned: bool = False, **scheduler) -> Path:
    """A saved `DDPMPipeline` of random weights; one that learns its variance stands for improved DDPM."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=SIDE,
        in_channels=3,
        out_channels=6 if learned else 3,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        dropout=0.1,
    )
    kind = "learned_range" if learned else "fixed_small"
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler(variance_type=kind, **scheduler)).save_pretrained(folder)
    return folder


def ldm(folder: Path, **scheduler) -> Path:
    """A saved `LDMPipeline` of random weights: a UNet in the latents of a VQ autoencoder."""
    from diffusers import DDIMScheduler, LDMPipeline, UNet2DModel, VQModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=SIDE // 2,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
    )
    vqvae = VQModel(
        latent_channels=3,
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        num_vq_embeddings=32,
        scaling_factor=0.7,
    )
    kept = {"clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False}
    LDMPipeline(unet=unet, vqvae=vqvae, scheduler=DDIMScheduler(**kept, **scheduler)).save_pretrained(folder)
    return folder


def dit(folder: Path, learned: bool = True) -> Path:
    """A saved `DiTPipeline` of random weights, two blocks, with the classes that diffusers expects."""
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8 if learned else 4,
        num_layers=2,
        sample_size=SIDE // 4,
        patch_size=2,
        norm_num_groups=4,
        num_embeds_ada_norm=1000,
    )
    pipeline = DiTPipeline(
        transformer=transformer,
        vae=autoencoder(scaling_factor=0.7, shift_factor=0.1),
        scheduler=DDIMScheduler(clip_sample=False),
    )
    pipeline.register_to_config(id2label={0: "tench", 1: "goldfish"})
    pipeline.save_pretrained(folder)
    return folder


def stable_diffusion_xl(folder: Path) -> Path:
    """A saved `stable_diffusion_xl_pipeline`."""
    return saved(stable_diffusion_xl_pipeline(), folder)


def stable_diffusion_xl_pipeline():
    """A `StableDiffusionXLPipeline` of random weights, with the scheduler that SDXL names."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    first = clip_encoder(tokenizer)
    second = CLIPTextModelWithProjection(CLIPTextConfig.from_dict(first.config.to_dict()))
    return StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.7, shift_factor=0.1),
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=clip_tokenizer(),
        unet=UNet2DConditionModel(
            sample_size=SIDE // 4,
            in_channels=4,
            out_channels=4,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=64,
            attention_head_dim=2,
            norm_num_groups=8,
            transformer_layers_per_block=1,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 32,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        add_watermarker=False,
    )


def clip(folder: Path) -> Path:
    """A saved `CLIPModel` of random weights with tokenizer and image processor."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPVisionConfig

    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=24,
        patch_size=8,
        projection_dim=32,
    )
    text = clip_encoder(tokenizer).config
    config = CLIPConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        projection_dim=32,
        logit_scale_init_value=3.0,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, do_center_crop=True
    ).save_pretrained(folder)
    return folder


def open_clip(folder: Path) -> Path:
    """A folder with the weights of an open_clip `CLIP` of random weights and its configuration."""
    import json

    from open_clip.model import CLIP
    from safetensors.torch import save_file

    torch.manual_seed(2)
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(CLIP(**config).state_dict(), folder / "hps.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    return folder


def classifier(folder: Path, labels: tuple[str, ...] = ("calm", "violent")) -> Path:
    """A saved image classifier of random weights, which takes images of any size in [-1, 1]."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(1)
    names = dict(enumerate(labels))
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=names
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    return folder


class ToyDetector(torch.nn.Module):
    """A smooth detector of two convolutions with random weights, one confidence per pixel."""

    name = "toy"

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.layers = torch.nn.Sequential(
                torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(8, 1, 3, padding=1)
            )
        self.eval().requires_grad_(False)

    def confidence(self, images: torch.Tensor) -> torch.Tensor:
        return (4 * self.layers(images)[:, 0]).sigmoid()

    def find_artifacts(self, image):
        with torch.no_grad():
            return self.confidence(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0].numpy()
