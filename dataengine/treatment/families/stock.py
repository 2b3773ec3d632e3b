"""Any text-to-image pipeline of diffusers, by its own call.

`predict` is the pipeline's call on given latents and one time, left where it hands its answer to the
scheduler: guidance, negative prompts, packing and position ids are the pipeline's own. Prompts are encoded
once and given back (`recorded`); the arrangement and scale of latents are learned from its path to the VAE
(`layout`). Sampling brings its own steps: Euler's for flow matching and DDIM's for noise and v-prediction
(v_t = α_t·ε − σ_t·x_0, Salimans & Ho 2022), which is answered as noise.
"""

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dataengine.bounds import read_config
from dataengine.errors import ConfigRefused, ModelRefused
from dataengine.treatment.families import ddim
from dataengine.treatment.families.autoencoder import without_autocast
from dataengine.treatment.families.components import left_out, stock_class, stock_facts
from dataengine.treatment.families.diffusion import (
    Conditioning,
    Prediction,
    Schedule,
    broadcast_level,
    prompts_beyond,
)
from dataengine.treatment.families.lora import Adapter
from dataengine.treatment.families.own_call.hooked import Halt, Hook, call
from dataengine.treatment.families.own_call.layout import Layout
from dataengine.treatment.families.quantization import Bits, loading_options
from dataengine.treatment.families.recorded import Recording
from dataengine.treatment.families.rows import SWITCHES, row_of
from dataengine.treatment.families.schedulers import FLOW, flow_scheduler
from dataengine.treatment.families.weight_files import variant_of

STRONG = 2.0
"""A guidance scale at which every pipeline that guides encodes its negative prompt."""


class StockFamily:
    """See `families.GeneratorFamily`."""

    distilled: bool = False

    def __init__(self, pipeline: Any) -> None:
        """`pipeline` is a loaded text-to-image pipeline with its VAE in float32. Its scheduler is replaced.

        Raises `ModelRefused` for one without a VAE or with another kind of scheduler.
        """
        self.pipeline = pipeline
        self.kind = type(pipeline).__name__
        self.row = row_of(self.kind)
        self.name = self.kind.removesuffix("Pipeline")
        names = [name for name in ("transformer", "unet") if getattr(pipeline, name, None) is not None]
        if not names or getattr(pipeline, "vae", None) is None:
            raise ModelRefused(
                f"{self.kind} has no {'VAE' if names else 'transformer or UNet'}; expected latent diffusion"
            )
        self._component = names[0]
        kind = pipeline.scheduler.config.get("prediction_type", "epsilon")
        flows = pipeline.scheduler.config.get("use_flow_sigmas") or kind == "flow_prediction"
        self.prediction: Prediction = "epsilon"
        self.velocity = kind == "v_prediction"
        if type(pipeline.scheduler).__name__ in FLOW or flows:
            self.prediction, self.velocity = "flow", False
            pipeline.scheduler = flow_scheduler(pipeline.scheduler)
        else:
            pipeline.scheduler = ddim.sampler(pipeline.scheduler, self.kind, ("epsilon", "v_prediction"))
        self.adapter = Adapter(
            pipeline, self._component, {"attention": self.row.attention, "all": self.row.layers}
        )
        takes = inspect.signature(type(pipeline).__call__).parameters
        self._takes = frozenset(takes)
        default = {name: takes[name].default for name in takes}
        guidance, steps = default.get(self.row.guidance_argument), default["num_inference_steps"]
        self.guidance = float(guidance or 0.0) if self.row.guidance is None else self.row.guidance
        self.steps: int = self.row.steps or steps
        self.training_guidance = self.guidance if self._embedded else self.row.unguided
        self.tokens = self._most_tokens(default.get("max_sequence_length"))
        self._checkpointing = False
        self._layouts: dict[tuple[int, int], Layout] = {}
        self._prepared: dict[tuple[int, int, int], tuple[torch.dtype, Any]] = {}
        self._decoding: dict[str, Any] = {}

    @classmethod
    def open(cls, folder: Path, dtype: torch.dtype, bits: Bits | None = None) -> Self:
        """Load from a validated folder, with the denoiser quantised to `bits`. Safety checkers, prompt
        enhancers and image encoders are left out."""
        index = read_config(folder / "model_index.json")
        kind, facts = index["_class_name"], stock_facts(index["_class_name"], index, folder)
        libraries = {name: str(index[name][0]) for name in facts.networks}
        denoiser = "transformer" if "transformer" in facts.networks else "unet"
        pipeline = stock_class(kind).from_pretrained(
            folder,
            dtype={"vae": torch.float32, "default": dtype},
            use_safetensors=True,
            local_files_only=True,
            variant=variant_of(folder, libraries),
            **loading_options(denoiser, bits, dtype),
            **dict.fromkeys(left_out(kind)),
        )
        return cls(pipeline)

    @property
    def denoiser(self) -> Any:
        """The network that predicts."""
        return getattr(self.pipeline, self._component)

    @property
    def _embedded(self) -> bool:
        """Whether guidance is an input of the network, as in FLUX.1 dev."""
        return bool(getattr(self.denoiser.config, "guidance_embeds", False))

    @property
    def device(self) -> torch.device:
        """The denoiser's device."""
        return self.denoiser.device

    @cached_property
    def size(self) -> tuple[int, int]:
        """The size that its own call draws by default, or that of its row."""
        if self.row.size is not None:
            return self.row.size, self.row.size
        latents, _ = self._to_vae(None)
        return latents.shape[-2] * self._factor, latents.shape[-1] * self._factor

    @cached_property
    def _factor(self) -> int:
        """Pixels to a latent of the VAE; a pipeline's own factor may count packing, too."""
        config = self.pipeline.vae.config
        levels = config.get("encoder_block_out_channels") or config.get("block_out_channels")
        if levels:
            return int(2 ** (len(levels) - 1))
        found = getattr(self.pipeline.vae, "spatial_compression_ratio", None)
        return int(found or self.pipeline.vae_scale_factor)

    @cached_property
    def multiple(self) -> int:
        """The VAE's factor times the patches of denoiser and packing, or the UNet's halvings."""
        config = self.denoiser.config
        if "block_out_channels" in config:
            return self._factor * 2 ** (len(config.block_out_channels) - 1)
        patch = config.get("patch_size") or max(config.get("all_patch_size") or (1,))
        patch = patch if isinstance(patch, int) else max(patch)
        inside = self._noise([0], None).shape[1:]
        packed = inside[-1] if len(inside) == 2 else inside[0]
        latent = self._to_vae(None)[0].shape[1]
        step = self._factor * max(patch, round((packed / latent) ** 0.5))
        for times in (1, 2, 4, 8):
            try:
                self._to_vae((times * step, times * step))
            except ValueError:
                continue
            return times * step
        raise ModelRefused(f"{self.kind} draws no image of {step} to {8 * step} pixels in square")

    def modules(self) -> Mapping[str, nn.Module]:
        """Its networks."""
        parts = self.pipeline.components
        return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}

    def to(self, device: torch.device | str) -> Self:
        """Move all networks."""
        self.pipeline.to(device)
        self._layouts.clear()
        self._prepared.clear()
        return self

    def frozen(self) -> None:
        """Freeze all networks and switch them to inference, but for modules that would then hold the gradient
        back."""
        for network in self.modules().values():
            network.requires_grad_(False).eval()
        for name, module in self.denoiser.named_modules():
            if self.row.train_modules and re.fullmatch(self.row.train_modules, name):
                module.train()

    def use_checkpointing(self) -> None:
        """See `GeneratorFamily`. Where the VAE has none of its own, all of it is computed again."""
        if self.row.checkpointing and self.denoiser._supports_gradient_checkpointing:
            self.denoiser.enable_gradient_checkpointing()
        if self.pipeline.vae._supports_gradient_checkpointing:
            self.pipeline.vae.enable_gradient_checkpointing()
        self._checkpointing = True

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """What its `encode_prompt` answers, with the negative prompt's."""
        return self._recording(list(prompts))

    @cached_property
    def _recording(self) -> Recording:
        with torch.no_grad():
            return Recording(self.encoded, self.row.one_by_one)

    def encoded(self, prompts: Sequence[str], guidance: float | None = None) -> list[Any]:
        """The answers of its `encode_prompt` calls, in order; by default for a guided call."""
        answers: list[Any] = []

        def remember(original: Hook, *args: Any, **kwargs: Any) -> Any:
            answers.append(original(*args, **kwargs))
            return answers[-1]

        def leave(original: Hook, *args: Any, **kwargs: Any) -> Any:
            raise Halt(None)

        scale = max(self.guidance, STRONG) if guidance is None else guidance
        self.call({"encode_prompt": remember, "prepare_latents": leave}, list(prompts), None, scale)
        return answers

    def blank_conditioning(self, count: int) -> Conditioning:
        """That of the empty prompt."""
        return self._blank.rows([0] * count).to(self.device)

    @cached_property
    def _blank(self) -> Conditioning:
        return self.encode_prompts([""]).to("cpu")

    @property
    def _tokenizer(self) -> Any:
        """That of its last text encoder, which by diffusers' order reads the most; None without any."""
        names = ("tokenizer_4", "tokenizer_3", "tokenizer_2", "tokenizer")
        found = next((each for name in names if (each := getattr(self.pipeline, name, None))), None)
        return getattr(found, "tokenizer", found)

    def _most_tokens(self, usual: int | None) -> int | None:
        """How many tokens of a prompt are read, to which most pipelines pad: its call's default, unless the
        tokenizer states fewer."""
        if usual is None or self._tokenizer is None:
            return usual
        return min(usual, self._tokenizer.model_max_length)

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Prompts beyond the limit of its last text encoder."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            return []
        return prompts_beyond(prompts, tokenizer, min(self.tokens or 10**9, tokenizer.model_max_length))

    def initial_latents(self, seeds: Sequence[int], size: tuple[int, int]) -> Tensor:
        """The pipeline's own noise for a list of CPU generators, in float32.

        Raises `ConfigRefused` for a size that the pipeline does not draw.
        """
        return self.layout(size).outside(self._noise(seeds, size))

    @torch.no_grad()
    def _noise(self, seeds: Sequence[int], size: tuple[int, int] | None) -> Tensor:
        def prepare(original: Hook, *args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(original).bind(*args, **kwargs)
            given.arguments["dtype"] = torch.float32
            raise Halt(_first(original(*given.args, **given.kwargs)))

        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        hooks = {"prepare_latents": prepare}
        return self.call(hooks, self.blank_conditioning(len(seeds)), size, generators=generators)

    def layout(self, size: tuple[int, int]) -> Layout:
        """The arrangement of latents of images of that size. Raises `ConfigRefused` for a size that the
        pipeline does not draw."""
        if size not in self._layouts:
            example = self._noise([0], size)
            layout = Layout.of(lambda latents: self._to_vae(size, latents)[0], example).to(self.device)
            drawn = tuple(side * self._factor for side in layout.scale.shape[1:])
            if drawn != size:
                raise ConfigRefused(
                    f"{self.name} draws {drawn[0]}×{drawn[1]} when asked for {size[0]}×{size[1]} pixels; "
                    "choose a size that it draws"
                )
            self._decoding = self._to_vae(size, example)[1]
            self._layouts[size] = layout
        return self._layouts[size]

    def _to_vae(
        self, size: tuple[int, int] | None, latents: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """What the VAE is asked to decode for final latents, the pipeline's own or given ones of one image,
        and the further arguments."""

        def prepare(original: Hook, *args: Any, **kwargs: Any) -> Any:
            prepared = original(*args, **kwargs)
            return prepared if latents is None else _with_first(prepared, latents)

        def decode(original: Hook, z: Tensor, *args: Any, **kwargs: Any) -> Any:
            raise Halt((z, kwargs))

        hooks = {"set_timesteps": _no_steps, "prepare_latents": prepare, "decode": decode}
        found = self.call(hooks, self.blank_conditioning(1), size)
        if not isinstance(found, tuple) or not torch.is_tensor(found[0]):
            raise ModelRefused(f"{self.kind} draws without its VAE's decode")
        return found

    def finished(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        """The image that the pipeline itself makes of final latents in its own arrangement, as `decode`."""

        def prepare(original: Hook, *args: Any, **kwargs: Any) -> Any:
            return _with_first(original(*args, **kwargs), latents)

        hooks = {"set_timesteps": _no_steps, "prepare_latents": prepare}
        return self.call(hooks, self.blank_conditioning(len(latents)), size).images

    def schedule(self, steps: int, latents: Tensor) -> Schedule:
        """The scheduler's own sigmas, as the pipeline sets them for that size, or DDIM's."""
        scheduler = self.pipeline.scheduler
        if self.prediction == "epsilon":
            return ddim.schedule(scheduler, steps, latents.device)

        def leave(original: Hook, *args: Any, **kwargs: Any) -> Any:
            raise Halt(None)

        with torch.no_grad():
            self.call({"forward": leave}, self.blank_conditioning(1), self._size_of(latents), steps=steps)
        # In double precision, so that the scheduler's own times come back exactly.
        times = scheduler.timesteps.double() / scheduler.config.num_train_timesteps
        if not scheduler.sigmas.isfinite().all():
            raise ConfigRefused(f"{self.name} has no noise levels for {steps} steps; choose more steps")
        sigma, next_sigma = (
            part.to(latents.device) for part in (scheduler.sigmas[:-1], scheduler.sigmas[1:])
        )
        return Schedule(
            times=times.to(latents.device),
            alpha=1 - sigma,
            sigma=sigma,
            next_alpha=1 - next_sigma,
            next_sigma=next_sigma,
        )

    def random_times(self, count: int, rng: torch.Generator) -> Tensor:
        """Uniform in [0, 1), or uniform integer timesteps."""
        if self.prediction == "flow":
            return torch.rand(count, generator=rng)
        return ddim.random_times(self.pipeline.scheduler, count, rng)

    def levels(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """(1 − t, t), or (√ᾱ_t, √(1 − ᾱ_t))."""
        if self.prediction == "flow":
            return 1 - times, times
        return ddim.levels(self.pipeline.scheduler, times)

    def predict(self, latents: Tensor, times: Tensor, conditioning: Conditioning, guidance: float) -> Tensor:
        """Velocity ε − x_0 or noise ε, as the pipeline hands it to its scheduler.

        Images of different times, or whose prompts have different lengths, are asked one after another.
        """
        layout = self.layout(self._size_of(latents))
        times = times.to("cpu")
        groups: dict[tuple[float, int], list[int]] = {}
        for row, key in enumerate(zip(times.tolist(), self._recording.alike(conditioning), strict=True)):
            groups.setdefault(key, []).append(row)
        if len(groups) == 1:
            output = self._answer(layout.inside(latents), times[0], conditioning, guidance, layout)
        else:
            parts = [
                self._answer(
                    layout.inside(latents[rows]), times[rows[0]], conditioning.rows(rows), guidance, layout
                )
                for rows in groups.values()
            ]
            order = torch.tensor([row for rows in groups.values() for row in rows]).argsort()
            output = torch.cat(parts)[order.to(latents.device)]
        if self.velocity:
            alpha, sigma = self.levels(times)
            return broadcast_level(alpha, latents) * output + broadcast_level(sigma, latents) * latents
        return output

    def _answer(
        self, inside: Tensor, time: Tensor, conditioning: Conditioning, guidance: float, layout: Layout
    ) -> Tensor:
        """The answer for latents in the pipeline's arrangement at one time, as ours, float32."""
        scheduler = self.pipeline.scheduler
        if self.prediction == "flow":
            time = (time.double() * scheduler.config.num_train_timesteps).float()

        def one_step(original: Hook, *args: Any, **kwargs: Any) -> None:
            scheduler.timesteps = time.reshape(1).to(self.device)
            scheduler.num_inference_steps = 1

        def prepare(original: Hook, *args: Any, **kwargs: Any) -> Any:
            dtype, rest = self._rest(original, (len(inside), *size), args, kwargs)
            return _with_first(rest, inside.to(dtype))

        height, width = (side * self._factor for side in layout.scale.shape[1:])
        size = height, width
        hooks = {"set_timesteps": one_step, "prepare_latents": prepare, "step": _answered}
        answer = self.call(hooks, conditioning, size, guidance)
        if answer.shape != inside.shape:
            raise ModelRefused(
                f"{self.kind} answers {tuple(answer.shape)} to latents of {tuple(inside.shape)}"
            )
        return layout.outside(answer.float())

    def _rest(self, original: Hook, key: tuple[int, int, int], args: Any, kwargs: Any) -> Any:
        """The dtype of its own latents, and what it prepares beside them, such as position ids."""
        if key not in self._prepared:
            given = inspect.signature(original).bind(*args, **kwargs).arguments
            prepared = original(*args, **kwargs)
            dtype = given.get("dtype") or _first(prepared).dtype
            self._prepared[key] = dtype, _with_first(prepared, _first(prepared)[:0])
        return self._prepared[key]

    def decode(self, latents: Tensor) -> Tensor:
        """See `GeneratorFamily`."""
        z = self.layout(self._size_of(latents)).for_vae(latents.float())
        if not self._checkpointing or not torch.is_grad_enabled():
            return self._decoded(z)
        whole = not self.pipeline.vae._supports_gradient_checkpointing
        parts = [
            checkpoint(self._decoded, one, use_reentrant=False) if whole else self._decoded(one)
            for one in z.split(1)
        ]
        return torch.cat(parts)

    def _decoded(self, z: Tensor) -> Tensor:
        with without_autocast(z.device):
            images = self.pipeline.vae.decode(z, **{**self._decoding, "return_dict": False})[0]
        plain = images.squeeze(2) if images.ndim == 5 else images
        return (plain / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """See `GeneratorFamily`."""
        size = tuple(images.shape[-2:])
        layout = self.layout((size[0], size[1]))
        given = images.float() * 2 - 1
        with without_autocast(images.device):
            found = self.pipeline.vae.encode(given.unsqueeze(2) if layout.frames else given)
        if hasattr(found, "latent_dist"):
            return layout.from_vae(found.latent_dist.mean)
        return layout.from_vae(found.latent if hasattr(found, "latent") else found.latents)

    def _size_of(self, latents: Tensor) -> tuple[int, int]:
        return latents.shape[-2] * self._factor, latents.shape[-1] * self._factor

    def call(
        self,
        hooks: Mapping[str, Hook],
        prompts: Sequence[str] | Conditioning,
        size: tuple[int, int] | None,
        guidance: float | None = None,
        steps: int = 2,
        generators: list[torch.Generator] | None = None,
    ) -> Any:
        """Its own call with hooks, for prompts or for encoded ones; without a size, for its default one."""
        count, scale = len(prompts), self.guidance if guidance is None else guidance
        arguments: dict[str, Any] = {
            **{name: value for name, value in SWITCHES.items() if name in self._takes},
            **({"max_sequence_length": self.tokens} if self.tokens else {}),
            **self.row.arguments,
            "prompt": list(prompts) if not isinstance(prompts, Conditioning) else [""] * count,
            "num_inference_steps": steps,
            "generator": generators or [torch.Generator().manual_seed(0) for _ in range(count)],
            "output_type": "pt",
        }
        if self.row.guidance_argument in self._takes:
            arguments[self.row.guidance_argument] = scale
        if size is not None:
            arguments |= {"height": size[0], "width": size[1]}
            if self.row.area_argument is not None:
                arguments[self.row.area_argument] = size[0] * size[1]
            if self.row.one_area:
                # A little more, since the call rounds down.
                side = math.sqrt(size[0] * size[1]) / self._factor
                self.pipeline.default_sample_size = side * (1 + 1e-9)
        if self.row.negative is not None and scale > self.training_guidance:
            arguments["negative_prompt"] = [self.row.negative] * count
        if isinstance(prompts, Conditioning):
            answers = iter(self._recording.replay(prompts))
            hooks = {**hooks, "encode_prompt": lambda original, *args, **kwargs: next(answers)}
        return call(self.pipeline, self._component, hooks, arguments)


def _first(prepared: Any) -> Tensor:
    """The latents among what a pipeline prepares."""
    return prepared[0] if isinstance(prepared, tuple) else prepared


def _with_first(prepared: Any, latents: Tensor) -> Any:
    """The same with other latents."""
    return (latents, *prepared[1:]) if isinstance(prepared, tuple) else latents


def _no_steps(original: Any, *args: Any, **kwargs: Any) -> None:
    original(*args, **kwargs)
    scheduler = original.__self__
    scheduler.timesteps = scheduler.timesteps[:0]


def _answered(original: Any, model_output: Tensor, *args: Any, **kwargs: Any) -> None:
    raise Halt(model_output)
