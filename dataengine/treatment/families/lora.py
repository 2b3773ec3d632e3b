"""The LoRA of a pipeline's denoiser, by peft and in diffusers' own keys.

The matrices are float32 whatever the base's precision, so that small updates are not lost in rounding.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dataengine import durable
from dataengine.bounds import check_header
from dataengine.errors import ConfigRefused, ModelRefused
from dataengine.treatment.config import LoraSettings

WEIGHTS = "pytorch_lora_weights.safetensors"
NAME = "default"


class Adapter:
    """See `families.LoraAdapter`. `component` is the denoiser's name within the pipeline."""

    def __init__(self, pipeline: Any, component: str, targets: Mapping[str, str]) -> None:
        """`targets` maps each choice of `LoraSettings.targets` to a regular expression over module names."""
        self._pipeline, self._component, self._targets = pipeline, component, targets

    @property
    def _denoiser(self) -> Any:
        return getattr(self._pipeline, self._component)

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
            self._denoiser.add_adapter(config, adapter_name=NAME)
        self._train(True)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Its matrices by name, sorted; empty without a LoRA."""
        named = sorted(self._denoiser.named_parameters(), key=lambda pair: pair[0])
        return {name: weight for name, weight in named if f".{NAME}." in name and "lora_" in name}

    def save(self, folder: Path) -> None:
        """Write `pytorch_lora_weights.safetensors` with rank and alpha in its metadata, by a rename."""
        from peft.utils import get_peft_model_state_dict

        folder.mkdir(parents=True, exist_ok=True)
        denoiser = self._denoiser
        settings = denoiser.peft_config[NAME].to_dict()
        with tempfile.TemporaryDirectory(dir=folder, prefix=".lora-") as temporary:
            self._pipeline.save_lora_weights(
                temporary,
                **{
                    f"{self._component}_lora_layers": get_peft_model_state_dict(denoiser, adapter_name=NAME),
                    f"{self._component}_lora_adapter_metadata": settings,
                },
            )
            durable.move(Path(temporary) / WEIGHTS, folder / WEIGHTS)

    def load(self, folder: Path, trainable: bool = False) -> None:
        """Attach the LoRA saved in `folder`; with `trainable`, for further treatment.

        Raises `ModelRefused` unless every matrix of the file matches a layer of this base.
        """
        self._refuse_second()
        file = weights_file(folder)
        expected = self._matrices(file)
        try:
            self._pipeline.load_lora_weights(
                str(file.parent), weight_name=file.name, adapter_name=NAME, use_safetensors=True
            )
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            raise ModelRefused(f"{file} does not fit this generator: {_first_line(error)}") from error
        if len(self.parameters()) != expected:
            raise ModelRefused(
                f"{file} is for another generator: {len(self.parameters())} of its {expected} matrices fit"
            )
        self._train(trainable)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Context in which the base generates without the LoRA."""
        if not self._attached:
            yield
            return
        trained = next(iter(self.parameters().values())).requires_grad
        self._denoiser.disable_adapters()
        try:
            yield
        finally:
            self._denoiser.enable_adapters()
            self._train(trained)

    def _train(self, trainable: bool) -> None:
        for weight in self.parameters().values():
            weight.data = weight.data.float()
            weight.requires_grad_(trainable)

    def _matrices(self, file: Path) -> int:
        from safetensors import SafetensorError, safe_open

        try:
            check_header(file)
            with safe_open(file, framework="pt") as opened:
                keys = [key for key in opened.keys() if not key.endswith(".alpha")]  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ModelRefused(f"{file} is no safetensors file: {_first_line(error)}") from error
        foreign = [key for key in keys if not key.startswith(f"{self._component}.")]
        if foreign or not keys:
            raise ModelRefused(
                f"{file} is no LoRA of this generator's {self._component}: "
                f"it holds {(foreign or ['nothing'])[0]}"
            )
        return len(keys)

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
    one."""
    if folder.suffix == ".safetensors":
        return folder
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise ModelRefused(f"{folder} must hold {WEIGHTS}, but holds {[file.name for file in files]}")
    return files[0]


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
