"""Settings of `clinic evidence`, part by part (torch-free)."""

from pydantic import Field

from dataengine.config import Config
from dataengine.quality.config import StudyDesign
from pipelines.config import ComparisonSettings, GenerateConfig, TrainingRun, TreatmentRun
from pipelines.selections.config import InjectionRun, MiningRun

ALL = 100_000


class StudySettings(Config):
    """The blind study at the end."""

    pairs: int = Field(default=60, ge=1, le=5000)
    """Most pairs of images before and after that raters compare."""
    design: StudyDesign = StudyDesign()
    """Questions, raters for each pair, attention checks."""


class EvidenceRun(Config):
    """Everything that `clinic evidence` does, in its order."""

    draw: GenerateConfig = GenerateConfig()
    """The images that the generator draws for people to mark."""
    inject: InjectionRun = InjectionRun()
    """Artifacts injected into the photographs, which the first detector learns from."""
    first: TrainingRun = TrainingRun()
    """Training of the first detector, on photographs with and without injected artifacts."""
    mine: MiningRun = MiningRun()
    """Which of the drawn images people mark, and how many."""
    second: TrainingRun = TrainingRun()
    """Training of the second detector, on people's labels, from the first one."""
    treat: TreatmentRun = TreatmentRun(generator="")
    """The treatment, and its comparison on held-out prompts."""
    under: ComparisonSettings = ComparisonSettings()
    """The comparison under other samplers, steps, sizes, precisions and strengths."""
    under_prompts: int = Field(default=40, ge=1)
    """Most held-out prompts of that comparison."""
    study: StudySettings = StudySettings()
    """The blind study."""
