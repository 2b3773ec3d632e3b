"""A text-to-image generator as a Python object."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

from dataengine.api.inputs import Pixels
from dataengine.api.models import CLINIC_GENERATORS, materialised
from dataengine.api.progress import progress_bar
from dataengine.devices import default_device
from dataengine.errors import ConfigRefused
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.families.family import GeneratorFamily


class Generator:
    """A diffusers pipeline for drawing and treating, with its LoRA if it has one."""

    family: GeneratorFamily
    """The opened pipeline as the algorithms see it."""

    def __init__(self, family: GeneratorFamily) -> None:
        self.family = family

    @classmethod
    def load(
        cls,
        location: str | Path = "clinic-flux",
        *,
        lora: str | Path | None = None,
        strength: float = 1.0,
        device: str | None = None,
        precision: Literal["float32", "bfloat16"] = "float32",
        bits: Literal[4, 8] | None = None,
    ) -> Self:
        """Load a diffusers pipeline's folder, a hub id ("owner/name", "owner/name@revision"), or one of the
        small shipped ones, "clinic-flux" and "clinic-sd".

        `lora` is a folder that `Treated.save` wrote, drawn with at `strength`: 0 is the base, 1 as trained.
        `device` is "cpu", "cuda:0", "mps" …; by default the first NVIDIA GPU, else the CPU. Weights are held
        in `precision`, the denoiser's in 4 or 8 `bits` if given (NVIDIA only). Raises `ModelRefused`, naming
        the file, for anything that is missing or could run code.
        """
        import torch

        from dataengine.treatment.families.loading import load_family
        from dataengine.treatment.tuning.sharing import set_strength

        device, dtype = device or default_device(), getattr(torch, precision)
        adapter = None if lora is None else Path(lora).expanduser()
        if (part := CLINIC_GENERATORS.get(str(location))) and not Path(location).exists():
            with materialised(part) as folder:
                family = load_family(folder, adapter, device, dtype, bits)
        else:
            family = load_family(location, adapter, device, dtype, bits)
        if adapter is not None and strength != 1:
            set_strength(family, strength)
        return cls(family)

    @property
    def name(self) -> str:
        """Name of its family, such as "flux"."""
        return self.family.name

    def generate(
        self,
        prompts: str | Sequence[str],
        seeds: Sequence[int] | None = None,
        *,
        sampling: SamplingConfig | None = None,
        progress: bool = False,
    ) -> Pixels:
        """Images uint8 NHW3, one for each prompt and its seed (by default 0, 1, 2, …).

        The same prompt, seed and sampling give the same image before and after treating, whatever else is in
        the batch. Raises `ConfigRefused` for no prompts, other counts, and sizes that it does not support.
        """
        from dataengine.treatment.sampling.sampler import generate

        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        numbers = list(range(len(texts))) if seeds is None else [int(seed) for seed in seeds]
        with progress_bar(progress) as report:
            return generate(self.family, texts, numbers, sampling or SamplingConfig(), report)

    @contextmanager
    def untreated(self) -> Iterator[None]:
        """Context in which it draws without its LoRA. Raises `ConfigRefused` if it has none."""
        if not self.family.adapter.parameters():
            raise ConfigRefused("this generator has no LoRA; load one, or treat it first")
        with self.family.adapter.disabled():
            yield

    def __repr__(self) -> str:
        lora = ", with a LoRA" if self.family.adapter.parameters() else ""
        return f"Generator({self.name!r}{lora})"
