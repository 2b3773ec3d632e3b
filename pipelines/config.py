"""Settings of a round, stage by stage, and of the simulated people (torch-free)."""

from typing import Annotated, Literal

from pydantic import Field

from dataengine.config import Config, Location
from dataengine.curation.config import (
    HardCategoryConfig,
    MiningConfig,
    PromptWriterConfig,
    QuestionConfig,
    VqaConfig,
)
from dataengine.diagnosis.config import DetectorTrainingConfig, DynamicsConfig, HighlighterConfig
from dataengine.treatment.config import (
    CorrectionConfig,
    GuidanceConfig,
    RefiningConfig,
    SamplingConfig,
    TreatmentConfig,
    UNetConfig,
    WeightsConfig,
)

CLINIC = "clinic"
"""Stands for the embedded clinic's own models where a folder or hub id is asked for."""

Scorers = Annotated[
    tuple[str, ...], Location(kind="scorer", prefixes=("clip:", "pickscore:"), harmless="program:.+")
]
Attributes = Annotated[str, Location(kind="scorer", harmless=CLINIC)]
Writer = Annotated[str, Location(kind="llm", harmless=CLINIC)]


class GenerateConfig(Config):
    """What the generators draw before anything is known about where they break (stage `generate`)."""

    generators: tuple[str, ...] = ()
    """Ids of the generators that draw; empty means every one registered before the round that reads prompts.
    Unconditional generators and those of numbered classes draw only where they are named."""
    categories: tuple[str, ...] = ()
    """Categories that survey prompts are written for; empty when `prompts` are given."""
    prompts_per_category: int = Field(default=20, ge=1)
    """Survey prompts written for each category."""
    prompts: tuple[str, ...] = ()
    """Survey prompts to use as they are, instead of or beside written ones."""
    seeds_per_prompt: int = Field(default=2, ge=1)
    """Images drawn from each prompt, each with a seed of its own."""
    seed: int = Field(default=0, ge=0)
    """Seed of the first image; prompts and images count on from it."""
    sampling: SamplingConfig = SamplingConfig()
    """How the images are drawn; also before and after treatment."""
    correction: CorrectionConfig | None = None
    """Correct what looks broken while it is drawn; {} takes the defaults, null leaves it out."""
    guidance: GuidanceConfig | None = None
    """Pull the drawing towards what is judged well; {} takes the defaults, null leaves it out."""
    detector: str = ""
    """Id of the trained detector that corrects or guides, where one does; empty for the champion."""
    shard: int = Field(default=64, ge=1)
    """Images in one shard, the unit that is repeated after a crash."""
    validation: float = Field(default=0.2, ge=0, lt=1)
    """Share of prompt-and-seed groups kept apart for validation, decided once."""


class DiagnoseConfig(Config):
    """How artifact maps are made (stage `diagnose`)."""

    batch: int = Field(default=32, ge=1)
    """Images of equal size that the detector sees at once."""
    shard: int = Field(default=256, ge=1)
    """Images in one shard; their maps are packed together."""
    dynamics: DynamicsConfig | None = None
    """Keep maps of score dynamics beside the champion's, under a detector of their own; {} takes the
    defaults. The generators draw their images once more, as far as the window goes."""
    question: QuestionConfig | None = None
    """Ask a VQA model about every image whether it is broken, and keep its verdicts under a detector of their
    own; {"model": "FOLDER, HUB ID OR URL"} asks the paper's best question. Named as `mine.second_detector`
    (with `mine.disagreement` above 0) it has a say in what people are asked about."""


class CategorizeConfig(Config):
    """How images get their category (stage `categorize`)."""

    model: Annotated[str, Location(kind="vqa", harmless=CLINIC)] = ""
    """Folder or hub id of the VQA model, the URL of an OpenAI-compatible endpoint with "#" and the model's
    name, or "clinic" for the embedded one; empty trusts the prompts."""
    vqa: VqaConfig = VqaConfig()
    """What is asked, and what the answers mean; an image classifier's labels need neither."""
    batch: int = Field(default=64, ge=1)
    """Images that the model sees at once."""
    shard: int = Field(default=512, ge=1)
    """Images in one shard."""


class WritePromptsConfig(Config):
    """Which categories are hard, and how many prompts are written for them (stage `write_prompts`)."""

    statistic: HardCategoryConfig = HardCategoryConfig()
    """How a category is judged hard."""
    hard_per_category: int = Field(default=60, ge=1)
    """Prompts for more images of each hard category."""
    seeds_per_prompt: int = Field(default=2, ge=1)
    """Images drawn from each of them."""
    treat_per_category: int = Field(default=40, ge=1)
    """Prompts that the generator is treated on, for each hard category."""
    treat_easy_per_category: int = Field(default=6, ge=0)
    """Likewise for each other category, so that treatment also sees what is well."""
    judge_per_category: int = Field(default=20, ge=1)
    """Held-out prompts for each hard category, on which the generator is judged before and after."""
    judge_easy_per_category: int = Field(default=6, ge=0)
    """Likewise for each other category."""
    judge_seeds: int = Field(default=4, ge=1)
    """Images drawn from each held-out prompt, by either generator with the same seeds."""


class WaitConfig(Config):
    """When a round goes on with the labels it has (stage `wait_for_labels`)."""

    share: float = Field(default=1.0, gt=0, le=1)
    """Share of the queued images that must be answered."""


class PseudoLabelConfig(Config):
    """Which images the teacher labels (stage `pseudo_label`)."""

    limit: int = Field(default=100_000, ge=0)
    """Most images taken, hard cases first."""
    batch: int = Field(default=32, ge=1)
    """Images that the teacher sees at once."""
    shard: int = Field(default=256, ge=1)
    """Images in one shard."""


class PublishConfig(Config):
    """Which labels go into a snapshot, and with what weights (stage `publish`)."""

    labels: Literal["unreturned", "approved"] = "unreturned"
    """Labels that count: all but returned and replaced ones, or those alone that a curator approved."""

    true_weight: float = Field(default=1.0, gt=0)
    """Weight of an image that a person answered."""
    pseudo_weight: float = Field(default=1.0, gt=0)
    """Weight of an image labelled by the teacher."""
    real_weight: float = Field(default=1.0, gt=0)
    """Weight of an artifact-free real picture."""
    previous_weight: float = Field(default=1.0, gt=0)
    """Weight of an image labelled before this round."""
    real_limit: int = Field(default=100_000, ge=0)
    """Most real pictures taken."""


class EvaluateConfig(Config):
    """How champion and candidate are measured (stage `evaluate`)."""

    batch: int = Field(default=32, ge=1)
    """Images that a detector sees at once."""


class PromoteConfig(Config):
    """The gate that a candidate must pass on validation (stage `promote`)."""

    metric: Literal["mse", "kl", "kl1m"] = "mse"
    """Figure that must fall, on validation images with labels."""
    max_ratio: float = Field(default=1.0, gt=0)
    """Highest figure of the candidate, as a ratio to the champion's."""
    max_real_ratio: float = Field(default=1.1, gt=0)
    """Highest MSE on artifact-free validation pictures, as a ratio to the champion's."""
    real_slack: float = Field(default=1e-4, ge=0)
    """Worsening of the MSE on artifact-free pictures that is forgiven in any case."""


class TreatConfig(Config):
    """Which generator is treated, and how (stage `treat`)."""

    generator: str | None = None
    """Id of the generator to treat; the round's first when not given."""
    tuning: TreatmentConfig = TreatmentConfig()
    """Sampling, objective, optimizer, LoRA and guard."""
    real_limit: int = Field(default=2000, ge=0)
    """Most real pictures taken for the offline regularisation (DiffDoctor, Eq. 3-4)."""
    scorers: Scorers = ()
    """Preference models that the guard asks too: "clip:LOCATION", "pickscore:LOCATION", or "program:NAME" for
    one in another environment, such as ImageReward, whose command a worker reads in CLINIC_SCORER_NAME."""


class JudgeConfig(Config):
    """How the treated generator is compared with the untreated one (stage `judge`)."""

    attributes: Attributes = ""
    """Folder or hub id of the model that checks whether an image shows what was asked, or "clinic" for the
    embedded one; empty leaves the check out. The guard uses it too."""


Part = Literal["hard", "detector", "treatment"]


class RoundRecipe(Config):
    """Everything that one round needs to know, a section for each stage."""

    name: str = "round"
    """Name of the recipe."""
    parts: tuple[Part, ...] = ("hard", "detector", "treatment")
    """What the round does beyond its survey: more of the hard categories; labels by people and a detector
    that learns from them; treating a generator and judging it."""
    writer: Writer = ""
    """Who writes prompts: empty for the built-in grammar, "clinic" for the drawn world's captions, else the
    folder, hub id or endpoint URL of a language model."""
    writing: PromptWriterConfig = PromptWriterConfig()
    """How a language model is asked; grammar and captions need nothing."""
    generate: GenerateConfig = GenerateConfig()
    """Survey images."""
    diagnose: DiagnoseConfig = DiagnoseConfig()
    """Artifact maps."""
    categorize: CategorizeConfig = CategorizeConfig()
    """Categories."""
    write_prompts: WritePromptsConfig = WritePromptsConfig()
    """Hard categories and prompts."""
    mine: MiningConfig = MiningConfig()
    """Which images people are asked about."""
    wait_for_labels: WaitConfig = WaitConfig()
    """When there are labels enough."""
    train_teacher: DetectorTrainingConfig = DetectorTrainingConfig()
    """Training on true labels, from the champion."""
    pseudo_label: PseudoLabelConfig = PseudoLabelConfig()
    """Labels by the teacher."""
    publish: PublishConfig = PublishConfig()
    """The training set."""
    retrain: DetectorTrainingConfig = DetectorTrainingConfig()
    """Joint training on true and pseudo-labels."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Champion beside candidate."""
    promote: PromoteConfig = PromoteConfig()
    """The gate."""
    treat: TreatConfig = TreatConfig()
    """The generator learns."""
    judge: JudgeConfig = JudgeConfig()
    """Before against after."""


class TrainingRun(Config):
    """A detector trained outside a round, at the desk."""

    start: str | None = None
    """Id of the detector to go on from; the champion when not given."""
    publish: PublishConfig = PublishConfig()
    """Which labels go into the snapshot, and with what weights."""
    training: DetectorTrainingConfig = DetectorTrainingConfig()
    """The training itself."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """How champion and candidate are measured."""


class PromptChoice(Config):
    """Prompts for a treatment or for judging it."""

    source: Literal["hard", "category", "given"] = "hard"
    """Written for the categories found hard in the newest round, for categories that are named here, or
    given one by one."""
    categories: tuple[str, ...] = ()
    """Categories to write for, with source "category"."""
    per_category: int = Field(default=20, ge=1, le=10_000)
    """Prompts written for each category."""
    texts: tuple[str, ...] = Field(default=(), max_length=100_000)
    """The prompts themselves, with source "given"."""
    seed: int = Field(default=0, ge=0)
    """Seed of what is written."""


class TreatmentRun(Config):
    """A generator treated outside a round, at the desk."""

    generator: str
    """Id of the generator, or of the registered model that becomes one."""
    weights: WeightsConfig | None = None
    """How the generator's weights lie in memory, here and when it is judged; as it was registered when not
    given. Other weights make a generator of their own, which rounds draw with too."""
    detector: str | None = None
    """Id of the detector to treat against; the champion when not given."""
    name: str = Field(default="", max_length=200)
    """Name of the treated generator; the generator's own and "treated" when empty."""
    prompts: PromptChoice = PromptChoice()
    """What the generator is treated on."""
    judge: PromptChoice = PromptChoice(seed=1)
    """Held-out prompts on which both generators are drawn side by side; the guard looks at them too."""
    judge_seeds: int = Field(default=2, ge=1, le=64)
    """Images of each held-out prompt, by either generator with the same seeds."""
    writer: Writer = ""
    """Who writes prompts: empty for the built-in grammar, "clinic" for the drawn world's captions, else the
    folder, hub id or endpoint URL of a language model."""
    tuning: TreatmentConfig = TreatmentConfig()
    """Sampling, objective, optimizer, LoRA and guard."""
    real_limit: int = Field(default=2000, ge=0)
    """Most real pictures taken for the offline regularisation (DiffDoctor, Eq. 3-4)."""
    scorers: Scorers = ()
    """Preference models that the guard asks too: "clip:LOCATION", "pickscore:LOCATION", or "program:NAME" for
    one in another environment, such as ImageReward, whose command a worker reads in CLINIC_SCORER_NAME."""
    attributes: Attributes = ""
    """Folder or hub id of the model that checks whether an image shows what was asked, or "clinic" for the
    embedded one; empty leaves the check out."""


class RefiningRun(Config):
    """Self-refining training of a generator on the workspace's real pictures, outside a round."""

    generator: str = ""
    """Id of the generator whose whole network is trained on; empty begins a new unconditional UNet."""
    network: UNetConfig = UNetConfig()
    """The new UNet."""
    name: str = Field(default="", max_length=200)
    """Name of what comes out; the generator's own and "refined" when empty."""
    limit: int = Field(default=20_000, ge=10)
    """Most real pictures taken; all are cut and scaled to the generator's size."""
    refining: RefiningConfig = RefiningConfig(
        steps=20_000, lr=2e-4, ema=0.999, highlighter=HighlighterConfig(lr=1e-4, epochs=6)
    )
    """Both phases of the training; sized for small pictures and a highlighter from random weights."""


class HumanErrorConfig(Config):
    """How a simulated person departs from what the oracle sees."""

    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Confidence from which a person sees an artifact."""
    jitter: float = Field(default=0.6, ge=0)
    """Typical distance in pixels between the painted and the seen outline."""
    small: int = Field(default=20, ge=0)
    """Components below this area in pixels may be overlooked."""
    missed: float = Field(default=0.3, ge=0, le=1)
    """Probability that such a component is overlooked."""
    false_strokes: float = Field(default=0.01, ge=0, le=1)
    """Share of images with a stroke where nothing is wrong."""
    label: int = Field(default=1, ge=1, le=127)
    """Class that is painted."""
    lead_seconds: float = Field(default=12.0, ge=0)
    """Median time that a person says an image took (log-normal)."""
    pace: float = Field(default=0.0, ge=0)
    """Share of that time that is really waited; a demo does not wait."""


class DemoDataConfig(Config):
    """How much a demo workspace begins with."""

    clean: int = Field(default=700, ge=10)
    """Artifact-free pictures for training, validation and the treatment's regularisation."""
    previous: int = Field(default=1200, ge=0)
    """Drawings of those that the first doctor learned from, as the earlier annotators marked them."""
    benchmark: int = Field(default=240, ge=6)
    """Drawings of hard categories with exact truth, broken as often as the generator's."""
    benchmark_clean: int = Field(default=240, ge=6)
    """Artifact-free drawings of all categories that nothing trains on."""
