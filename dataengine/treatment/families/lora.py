"""The LoRA of a pipeline's denoiser, by peft and in diffusers' own keys.

Where the stock pipeline has `load_lora_weights`, that reads and writes the file. Other pipelines get the
same file with the same keys; their denoiser's `load_lora_adapter` reads it where it has one, else peft
alone. Published LoRAs are read in every layout that the stock pipeline's `load_lora_weights` reads
(diffusers' own, peft's keys, kohya's and ComfyUI's), those of text encoders included. The matrices are
float32 whatever the base's precision, so that small updates are not lost in rounding.
"""

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dataengine import durable
from dataengine.errors import ConfigRefused, ModelRefused, reason_of
from dataengine.safetensors_header import tensor_shapes
from dataengine.treatment.config import LoraSettings

WEIGHTS = "pytorch_lora_weights.safetensors"
NAME = "default"
ALPHA = ".alpha"
MATRIX = re.compile(r"lora(_linear_layer)?[._](down|up|A|B)\.weight$")
"""Ends of the keys of a LoRA's matrices, after diffusers' conversion."""
ENDS = {"lora_down.weight": ".lora_A.weight", "lora_up.weight": ".lora_B.weight", "alpha": ALPHA}
"""Ends of kohya's and ComfyUI's keys, and those of diffusers."""
PREFIXES = {
    "text_encoder": ("lora_te_text_model_", "lora_te1_text_model_"),
    "text_encoder_2": ("lora_te2_text_model_",),
}
"""Starts of their keys for text encoders."""
VARIANTS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
}
"""Parts of keys that tell other kinds of adapters."""
LEFT_OUT = re.compile(
    r"position_embedding|t5xxl|text_projection|\.diff|^lora_(?!unet_|transformer_|te_|te1_|te2_|controlnet)"
)
"""Keys that diffusers' conversion of FLUX's LoRAs drops, and only logs."""
PEFT_PREFIX = "base_model.model."
METADATA = "lora_adapter_metadata"
"""Key of a file's header under which diffusers keeps the settings of its LoRA."""


class Adapter:
    """See `families.LoraAdapter`. `component` is the denoiser's name within the pipeline."""

    def __init__(self, pipeline: Any, component: str, targets: Mapping[str, str]) -> None:
        """`targets` maps each choice of `LoraSettings.targets` to a regular expression over module names."""
        self._pipeline, self._component, self._targets = pipeline, component, targets

    @property
    def _denoiser(self) -> Any:
        return getattr(self._pipeline, self._component)

    @property
    def reader(self) -> str:
        """What reads the saved file into a stock pipeline."""
        if self._of_pipeline:
            return f"{type(self._pipeline).__name__}.load_lora_weights"
        if hasattr(self._denoiser, "load_lora_adapter"):
            return f"{type(self._denoiser).__name__}.load_lora_adapter"
        return "peft (inject_adapter_in_model and set_peft_model_state_dict, after the keys' first word)"

    @property
    def _of_pipeline(self) -> bool:
        return self._component in self._parts and hasattr(self._pipeline, "load_lora_weights")

    @property
    def _parts(self) -> list[str]:
        """The components that carry a LoRA."""
        return getattr(self._pipeline, "_lora_loadable_modules", None) or [self._component]

    @property
    def _attached(self) -> bool:
        return NAME in getattr(self._denoiser, "peft_config", {})

    def add(self, settings: LoraSettings, seed: int) -> None:
        """Attach a fresh LoRA: A is Gaussian by `seed`, B is zero, so that the images do not change."""
        from peft import LoraConfig

        self._refuse_second()
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            init_lora_weights="gaussian",
            target_modules=self._targets[settings.targets],
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            attach_lora(self._denoiser, config, NAME)
        self._train(True)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Its matrices by name, sorted; empty without a LoRA. A text encoder's are not trained further."""
        return _matrices_of(self._denoiser)

    @property
    def _encoders(self) -> dict[str, Any]:
        """The text encoders to which a LoRA is attached as well, by name."""
        names = [name for name in self._parts if name != self._component]
        found = {name: getattr(self._pipeline, name, None) for name in names}
        return {name: each for name, each in found.items() if NAME in getattr(each, "peft_config", {})}

    def save(self, folder: Path) -> None:
        """Write `pytorch_lora_weights.safetensors` with rank and alpha in its metadata, by a rename."""
        from peft.utils import get_peft_model_state_dict

        folder.mkdir(parents=True, exist_ok=True)
        content: dict[str, Any] = {}
        for name, network in {self._component: self._denoiser, **self._encoders}.items():
            content[f"{name}_lora_layers"] = get_peft_model_state_dict(network, adapter_name=NAME)
            content[f"{name}_lora_adapter_metadata"] = network.peft_config[NAME].to_dict()
        with tempfile.TemporaryDirectory(dir=folder, prefix=".lora-") as temporary:
            if self._of_pipeline:
                self._pipeline.save_lora_weights(temporary, **content)
            else:
                save_lora(self._denoiser, NAME, self._component, Path(temporary) / WEIGHTS)
            durable.move(Path(temporary) / WEIGHTS, folder / WEIGHTS)

    def load(self, folder: Path, trainable: bool = False) -> None:
        """Attach the LoRA in `folder`, or the file; with `trainable`, for further treatment.

        Raises `ModelRefused` unless every matrix of the file matches a layer of this base.
        """
        self._refuse_second()
        file = weights_file(folder)
        channels = self._denoiser.config.get("in_channels")
        matrices = self.attach(file, NAME)
        attached = sum(len(_matrices_of(each)) for each in (self._denoiser, *self._encoders.values()))
        if attached != len(matrices):
            raise ModelRefused(
                f"{file} is for another generator: {attached} of its {len(matrices)} matrices fit"
            )
        if self._denoiser.config.get("in_channels") != channels or not self.parameters():
            raise ModelRefused(
                f"{file} is no LoRA of this generator's {self._component}; expected one that is"
            )
        for encoder in self._encoders.values():
            encoder.requires_grad_(False)
        self._train(trainable)

    def attach(self, file: Path, name: str) -> dict[str, Tensor]:
        """Attach the LoRA in `file` under a name, beside others; returns its matrices in diffusers' keys.

        Raises `ModelRefused` for what is no LoRA of this base.
        """
        try:
            matrices, metadata = self._converted(file)
            if self._of_pipeline:
                # With its metadata, a file of diffusers states rank and alpha itself.
                self._pipeline.load_lora_weights(
                    **(
                        {"pretrained_model_name_or_path_or_dict": matrices}
                        if metadata is None
                        else _named(file)
                    ),
                    adapter_name=name,
                )
            else:
                load_lora(self._denoiser, name, self._component, matrices, metadata)
        except (ValueError, RuntimeError, KeyError, TypeError, IndexError, AssertionError) as error:
            raise ModelRefused(f"{file} does not fit this generator: {reason_of(error)}") from error
        return matrices

    def _converted(self, file: Path) -> tuple[dict[str, Tensor], Any]:
        """The file's matrices in the keys of diffusers, scaled so that alpha is the rank, and its metadata,
        with which they are not scaled. Raises `ModelRefused` for what would be ignored."""
        tensors = _read(file)
        named = self._named_by_path(tensors)
        state: dict[str, Tensor] = {}
        alphas: Mapping[str, float] | None = None
        if tensors and not self._of_pipeline:
            state = {key.removeprefix(PEFT_PREFIX): value for key, value in tensors.items()}
        elif tensors:
            lost = [key for key, value in tensors.items() if LEFT_OUT.search(key) and value.any()]
            options = {"unet_config": self._denoiser.config, "return_alphas": True}
            found = self._pipeline.lora_state_dict(tensors, **options)
            state, alphas = found if isinstance(found, tuple) else (found, None)
            if lost:
                raise ModelRefused(f"{file} holds {lost[0]}, which diffusers would leave out")
        state = state | named
        parts = [f"{name}." for name in self._parts]
        for key in state:
            if not key.startswith(tuple(parts)):
                raise ModelRefused(
                    f"{file} is no LoRA of this generator's {self._component}: it holds {key}{_hint(key)}"
                )
            if not MATRIX.search(key) and not key.endswith(ALPHA):
                raise ModelRefused(
                    f"{file} holds {key}, which is no matrix of a LoRA; expected pairs of them"
                )
        return _scaled(file, state, alphas or {}), _adapter_metadata(file)

    def _named_by_path(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Move those of kohya's and ComfyUI's tensors out that are named by a layer's path in diffusers, such
        as `lora_unet_mid_block_…_to_q.lora_down.weight` or `transformer.….to_q.lora_down.weight`, and return
        them under diffusers' names.

        diffusers' own conversion loses some: layers of FLUX, and a text encoder's attention beside its MLPs.
        """
        stems: dict[str, str] = {}
        for component in self._parts:
            prefixes = PREFIXES.get(component, (f"lora_{component}_", "lora_unet_"))
            for path, module in getattr(self._pipeline, component).named_modules():
                if hasattr(module, "weight"):
                    name = path.removeprefix("text_model.").replace(".", "_")
                    stems |= {prefix + name: f"{component}.{path}" for prefix in prefixes}
        stems |= {path: path for path in set(stems.values()) if f"{path}.lora_down.weight" in tensors}
        found: dict[str, Tensor] = {}
        for key in list(tensors):
            end = next((each for each in ENDS if key.endswith(f".{each}")), "")
            stem = key.removesuffix(f".{end}")
            if stem in stems and end:
                found[f"{stems[stem]}{ENDS[end]}"] = tensors.pop(key)
        return found

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Context in which the base generates without the LoRA."""
        if not self._attached:
            yield
            return
        trained = next(iter(self.parameters().values())).requires_grad
        networks = [self._denoiser, *self._encoders.values()]
        for network in networks:
            switch_lora(network, on=False)
        try:
            yield
        finally:
            for network in networks:
                switch_lora(network, on=True)
            for encoder in networks[1:]:
                encoder.requires_grad_(False)
            self._train(trained)

    def _train(self, trainable: bool) -> None:
        for weight in self.parameters().values():
            weight.data = weight.data.float()
            weight.requires_grad_(trainable)

    def _refuse_second(self) -> None:
        if self._attached:
            raise ConfigRefused(
                "this generator already has a LoRA; open it again, or continue with that LoRA"
            )


class NoAdapter:
    """The adapter of families whose diffusers pipelines cannot load a LoRA."""

    def __init__(self, family: str) -> None:
        self._refusal = ConfigRefused(
            f"{family} takes no LoRA, since diffusers loads none into its pipeline, so it cannot be treated; "
            "`clinic refine` trains its whole network"
        )

    reader = ""

    def add(self, settings: LoraSettings, seed: int) -> None:
        """Raises `ConfigRefused`."""
        raise self._refusal

    def parameters(self) -> dict[str, nn.Parameter]:
        """None."""
        return {}

    def save(self, folder: Path) -> None:
        """Raises `ConfigRefused`."""
        raise self._refusal

    def load(self, folder: Path, trainable: bool = False) -> None:
        """Raises `ConfigRefused`."""
        raise self._refusal

    def disabled(self) -> AbstractContextManager[None]:
        """The base generates unchanged."""
        return nullcontext()


def weights_file(folder: Path) -> Path:
    """The LoRA file in a folder (or the file itself). Raises `ModelRefused` when there is none or more than
    one, and for files of other kinds."""
    if folder.suffix == ".safetensors":
        return folder
    if folder.is_file():
        raise ModelRefused(f"{folder} is no .safetensors file; convert it, since other files may run code")
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise ModelRefused(f"{folder} must hold {WEIGHTS}, but holds {[file.name for file in files]}")
    return files[0]


def _read(file: Path) -> dict[str, Tensor]:
    """A LoRA's tensors. Raises `ModelRefused` for other files and other kinds of adapters."""
    from safetensors.torch import load_file

    shapes = tensor_shapes(file)
    for key in shapes:
        for part, kind in VARIANTS.items():
            if part in key:
                raise ModelRefused(f"{file} is a {kind} ({key}); only plain LoRAs are supported")
    if not any("lora" in key for key in shapes):
        raise ModelRefused(
            f"{file} contains no LoRA weights; expected a file saved by diffusers, peft or kohya"
        )
    return load_file(file)


def _adapter_metadata(file: Path) -> Any:
    """What diffusers wrote of rank and alpha into the file's header; None for other files."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return (opened.metadata() or {}).get(METADATA)


def _scaled(file: Path, state: Mapping[str, Tensor], alphas: Mapping[str, float]) -> dict[str, Tensor]:
    """The matrices, each second one times alpha / rank, so that the update is their plain product.

    diffusers passes different alphas to peft under names that no layer has, so that they are lost there.
    """
    found = dict(alphas) | {key: float(value) for key, value in state.items() if key.endswith(ALPHA)}
    matrices = {key: value for key, value in state.items() if not key.endswith(ALPHA)}
    for name, alpha in found.items():
        stem = name.removesuffix(ALPHA)
        ends = ("", ".lora.down.weight", ".lora_A.weight", ".lora_down.weight")
        down = next((stem + end for end in ends if stem + end in matrices), None)
        if down is None:
            raise ModelRefused(f"{file} holds an alpha without its matrices, {name}; download it again")
        up = down.replace("lora_A.", "lora_B.").replace("down.", "up.")
        matrices[up] = matrices[up].float() * (float(alpha) / len(matrices[down]))
    return matrices


def _named(file: Path) -> dict[str, Any]:
    return {
        "pretrained_model_name_or_path_or_dict": str(file.parent),
        "weight_name": file.name,
        "use_safetensors": True,
    }


def _hint(key: str) -> str:
    if not key.startswith(PEFT_PREFIX):
        return ""
    return ", peft's own name, which diffusers does not read; save it by the pipeline's save_lora_weights"


def _matrices_of(network: nn.Module) -> dict[str, nn.Parameter]:
    named = sorted(network.named_parameters(), key=lambda pair: pair[0])
    return {name: weight for name, weight in named if f".{NAME}." in name and "lora_" in name}


def attach_lora(network: Any, config: Any, name: str) -> None:
    """Attach a new LoRA of peft's `config`."""
    if hasattr(network, "add_adapter"):
        network.add_adapter(config, adapter_name=name)
        return
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, network, name)


def switch_lora(network: Any, on: bool) -> None:
    """Let the network answer with its LoRA, or without."""
    if hasattr(network, "enable_adapters"):
        network.enable_adapters() if on else network.disable_adapters()
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in network.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.enable_adapters(on)


def scale_loras(networks: Iterable[nn.Module], strengths: Mapping[str, float]) -> None:
    """Let the networks answer with these LoRAs alone, each scaled by its strength; 1 is as trained."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for network in networks:
        for layer in network.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.set_adapter(list(strengths))
                for name, strength in strengths.items():
                    layer.set_scale(name, strength)
        network.requires_grad_(False)


def merge_lora(networks: Iterable[Any]) -> None:
    """Add the LoRA that the networks answer with to their own weights, and detach it."""
    from diffusers.utils import recurse_remove_peft_layers
    from peft.tuners.tuners_utils import BaseTunerLayer

    for network in networks:
        if not hasattr(network, "peft_config"):
            continue
        for layer in network.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
        recurse_remove_peft_layers(network)
        del network.peft_config
        network._hf_peft_config_loaded = False


def save_lora(network: Any, name: str, prefix: str, file: Path) -> None:
    """Write the LoRA under keys that begin with `prefix`, its settings in the header, as diffusers does."""
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    settings = network.peft_config[name].to_dict()
    stated = {f"{prefix}.{key}": sorted(v) if isinstance(v, set) else v for key, v in settings.items()}
    matrices = get_peft_model_state_dict(network, adapter_name=name)
    save_file(
        {f"{prefix}.{key}": value.contiguous() for key, value in matrices.items()},
        file,
        {"format": "pt", METADATA: json.dumps(stated, sort_keys=True)},
    )


def load_lora(
    network: nn.Module, name: str, prefix: str, matrices: Mapping[str, Tensor], stated: str | None
) -> None:
    """Attach the matrices of a file, whose keys begin with `prefix`; `stated` are the settings in its header.

    Without them alpha is the rank. Raises `ValueError` for matrices that the network has no layer for.
    """
    from peft import LoraConfig, set_peft_model_state_dict

    held = {key.removeprefix(f"{prefix}."): value for key, value in matrices.items()}
    if stated is None:
        ranks = {key.removesuffix(".lora_A.weight"): len(v) for key, v in held.items() if ".lora_A." in key}
        patterns = {"rank_pattern": ranks, "alpha_pattern": ranks}
        config = LoraConfig(target_modules=sorted(ranks), **patterns)
    else:
        settings = json.loads(stated)
        known = LoraConfig().to_dict()
        given = {key.removeprefix(f"{prefix}."): value for key, value in settings.items()}
        config = LoraConfig(**{key: value for key, value in given.items() if key in known})
    attach_lora(network, config, name)
    result = set_peft_model_state_dict(network, held, adapter_name=name)
    if result.unexpected_keys:
        raise ValueError(f"the network has no layer for {result.unexpected_keys[0]}")
