"""What `evidence.json` holds, field by field: figures and facts, no person and no place on a machine.

`docs/evidence.md` describes it for readers. A change that readers of the former version would misread raises
`SCHEMA`.
"""

from typing import Literal

from pydantic import Field

from dataengine.config import Config

SCHEMA = 1

State = Literal["running", "waiting for labels", "waiting for votes", "complete", "nothing kept"]
PartName = Literal[
    "photos", "generator", "detector", "draw", "mine", "labels", "retrain", "treat", "under", "study"
]
Labels = Literal["people", "simulated", "none"]


class Change(Config):
    """A figure before and after the treatment."""

    before: float | None
    after: float | None
    ratio: float | None = None
    """After over before; null where before is 0."""
    interval: tuple[float, float] | None = None
    """95 % interval of the ratio, over prompts; of the difference where that is stated."""
    difference: float | None = None
    """After minus before, for figures whose ratio says little, such as attributes shown."""


class Product(Config):
    """The program that made this."""

    version: str
    commit: str
    """Commit of the checkout, "+dirty" where files differ from it; "" for an installed package."""


class Machine(Config):
    """What it ran on, without a name."""

    system: str
    python: str
    torch: str
    cpu: str
    cores: int
    memory_gb: float
    """Host memory, in units of 10⁹ bytes, as all sizes here."""
    device: str
    """cpu, cuda:0, mps, …"""
    gpu: str
    """Name of the GPU; "" without one."""
    gpu_memory_gb: float | None


class Model(Config):
    """The generator that was treated."""

    name: str
    """The hub id, the shipped name, or what --name says; "a local model" for a folder or file without it."""
    revision: str
    """Commit of the hub; "" for others."""
    pipeline: str
    """Class of the diffusers pipeline."""
    licence: str
    """As registered or given with --licence; "" where nobody stated it."""
    digest: str
    """Digest of the names and contents of its .safetensors files."""
    weights_gb: float
    """Size of its .safetensors files."""


class Part(Config):
    """One part of the work."""

    name: PartName
    state: Literal["done", "begun", "left out", "to come"]
    hours: float
    """Time that the command worked on it, over all its runs; waiting for people is not in it."""
    host_gb_peak: float | None
    """Highest resident memory of the process during the part; null where the system does not tell."""
    device_gb_peak: float | None
    """Highest memory of PyTorch's allocator on the GPU; null without one."""
    runs: int
    """How many times the command worked on it: above 1 where it was interrupted."""


class Photos(Config):
    """The photographs, taken as free of artifacts."""

    used: int
    captioned: int
    refused: int
    injected: int
    """Images made of them with an injected artifact."""


class Marking(Config):
    """What people marked."""

    by: Labels
    asked: int
    """Images that were selected."""
    given: int
    clean: int
    """Labels that say that the image has no artifact."""
    people: int
    """Different annotators."""
    minutes: float
    """Their time on these images, as the desk measures it."""


class DetectorFigures(Config):
    """A detector: what it was trained on, and how it did on held-back images."""

    name: str
    licence: str
    samples: dict[str, int]
    """Training images by kind: true, real, injected, …; empty for one that was given."""
    validation: int
    """Held-back images that it was measured on."""
    pixel_ap: float | None
    miss: float | None
    """Share of flawed images that it does not flag at its operating point."""
    false_alarm: float | None
    threshold: float
    """Confidence from which it flags an image."""


class Detectors(Config):
    """Both detectors, and the one that the treatment used."""

    first: DetectorFigures
    second: DetectorFigures | None = None
    """Trained on people's labels; null without any."""
    used: Literal["first", "second"] = "first"
    objections: tuple[str, ...] = ()
    """Why the second one was not used, where it was not."""


class Treatment(Config):
    """The treatment, and the comparison on held-out prompts with the same seeds."""

    objective: str
    """The preset or recipe."""
    updates: int
    kept: int | None
    """The update whose LoRA was kept; null where none was within the guard's limits."""
    stopped: str
    """Why it ended."""
    pairs: int
    prompts: int
    worse: int
    """Pairs whose mean confidence rose."""
    figures: dict[str, Change]
    """By the treating detector, which rates its own work kindly: mean_confidence, max_confidence, frequency
    (at 0.5), flagged (at its operating point); and detail, diversity, which it does not decide."""
    similarity: dict[str, float | None]
    """Mean PSNR in dB, SSIM, LPIPS between before and after; null where not measured."""


class Cell(Config):
    """One condition of the comparison under other conditions."""

    name: str
    axis: str
    before: float
    """Artifact frequency of the base, at the detector's operating point."""
    after: float
    ratio: float | None
    interval: tuple[float, float] | None
    verdict: str
    """holds, bad, or no artifacts in the base."""


class Under(Config):
    """Whether the LoRA holds where people draw."""

    limit: float
    """Ratio up to which a cell holds."""
    prompts: int
    cells: tuple[Cell, ...]
    held: int
    left_out: tuple[str, ...]
    """Names of the conditions that could not be drawn."""


class Question(Config):
    """One question of the blind study; pairs count, not votes."""

    question: str
    votes: int
    pairs: int
    after: int
    """Pairs whose majority preferred the treated image."""
    before: int
    ties: int
    win_rate: float | None
    """Share of "after" among decided pairs; null while none is decided."""
    interval: tuple[float, float] | None
    """95 % Wilson interval."""
    p_value: float | None


class Study(Config):
    """The blind study."""

    pairs: int
    votes: int
    """All votes, attention checks left aside; 0 says that nobody has voted yet."""
    raters: int
    left_out: int
    """Raters who failed too many attention checks, and whose votes do not count."""
    minutes: float
    """Raters' time on the pairs."""
    questions: tuple[Question, ...]


class Evidence(Config):
    """All of `evidence.json`."""

    schema_version: int = SCHEMA
    state: State
    created: str
    """UTC, ISO 8601, of the command's first run."""
    updated: str
    product: Product
    machine: Machine
    model: Model | None = None
    seed: int
    settings: dict[str, object]
    """`EvidenceRun`, without locations and prompts."""
    prompts: int
    """Prompts that were given; 0 where the program wrote them."""
    prompts_digest: str
    parts: tuple[Part, ...]
    hours: float
    photos: Photos | None = None
    labels: Marking | None = None
    detectors: Detectors | None = None
    treatment: Treatment | None = None
    under: Under | None = None
    study: Study | None = None
    notes: tuple[str, ...] = Field(default=())
    """What a reader must know, such as that a detector knows only the embedded clinic."""
