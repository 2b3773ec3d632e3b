"""Settings of a round, stage by stage, of runs outside rounds, and of the simulated annotators
(torch-free)."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dataengine.config import Config, Location
from dataengine.curation.config import (
    BoxesConfig,
    HardCategoryConfig,
    MiningConfig,
    PromptWriterConfig,
    QuestionConfig,
    VqaConfig,
)
from dataengine.diagnosis.config import (
    DetectorTrainingConfig,
    DynamicsConfig,
    HighlighterConfig,
    OperatingPointConfig,
)
from dataengine.treatment.config import (
    SamplingConfig,
    TreatmentConfig,
    UNetConfig,
    UsualSampling,
    WeightsConfig,
)
from dataengine.treatment.guided_sampling.config import CorrectionConfig, GuidanceConfig
from dataengine.treatment.refining.config import RefiningConfig

CLINIC = "clinic"
"""Selects the embedded clinic's own model in settings that otherwise take a folder or hub id."""

Scorers = Annotated[
    tuple[str, ...],
    Location(kind="scorer", prefixes=("clip:", "pickscore:", "hpsv2:"), harmless="program:.+"),
]
RealScorer = Annotated[
    str, Location(kind="scorer", prefixes=("clip:", "pickscore:", "hpsv2:"), harmless="program:.+")
]
Attributes = Annotated[str, Location(kind="scorer", harmless=CLINIC)]
Writer = Annotated[str, Location(kind="llm", harmless=CLINIC)]
Start = Annotated[str | None, Location(kind="encoder", harmless=r"[\w-]+|nvidia/mit-b[0-5]")]


class GenerateConfig(Config):
    """The survey: images generated before the hard categories are known (stage `generate`)."""

    generators: tuple[str, ...] = ()
    """Ids of the generators to use; empty: every untreated generator registered before the round that reads
    prompts. Treated, unconditional and class-conditional generators are used only if named here."""
    categories: tuple[str, ...] = ()
    """Categories to write survey prompts for; may be empty if `prompts` are given."""
    prompts_per_category: int = Field(default=20, ge=1)
    """Survey prompts written for each category."""
    prompts: tuple[str, ...] = ()
    """Survey prompts to use as they are, instead of or in addition to written ones."""
    seeds_per_prompt: int = Field(default=2, ge=1)
    """Images generated from each prompt, each with its own seed."""
    seed: int = Field(default=0, ge=0)
    """First random seed; further prompts and images use the following integers."""
    sampling: SamplingConfig = SamplingConfig()
    """Sampler settings of the images, also of those before and after treatment."""
    own_sampling: bool = True
    """Draw each generator with its own usual steps, guidance and size, where its registration states them,
    instead of those in `sampling`. False by default where `sampling` gives one of them."""
    correction: CorrectionConfig | None = None
    """Correct regions that look broken while sampling; {} uses the defaults, null disables it."""
    guidance: GuidanceConfig | None = None
    """Guide sampling towards images that the detector scores as clean; {} uses the defaults, null disables
    it."""
    detector: str = ""
    """Id of the trained detector used for correction or guidance; empty for the champion."""
    shard: int = Field(default=64, ge=1)
    """Images per shard, the unit of work that is repeated after a crash."""
    validation: float = Field(default=0.2, ge=0, lt=1)
    """Fraction of prompt-and-seed groups assigned to validation; the assignment never changes."""

    @model_validator(mode="before")
    @classmethod
    def _given_sampling_is_used(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "own_sampling" in given or not given.get("sampling"):
            return given
        sampling = given["sampling"]
        stated = sampling if isinstance(sampling, dict) else sampling.model_fields_set
        return given | {"own_sampling": not set(stated) & set(UsualSampling.model_fields)}


class DiagnoseConfig(Config):
    """How artifact maps are predicted (stage `diagnose`)."""

    batch: int = Field(default=32, ge=1)
    """Images per batch; all of one size."""
    shard: int = Field(default=256, ge=1)
    """Images per shard; their maps are packed together."""
    dynamics: DynamicsConfig | None = None
    """Also store maps of score dynamics, as predictions of a separate detector; {} uses the defaults, null
    disables it. Each image is regenerated up to the end of the window, so it is slow."""
    question: QuestionConfig | None = None
    """Also ask a VQA model whether each image is broken, and store its verdicts as predictions of a separate
    detector; {"model": "FOLDER, HUB ID OR URL"} asks the paper's best question. To let the verdicts influence
    which images are annotated, name that detector in `mine.second_detector` and set `mine.disagreement`
    above 0."""

    boxes: BoxesConfig | None = None
    """Also ask a vision-language model for boxes with type, reason and importance (SDG), and store their maps
    as predictions of a separate detector; {"model": "URL"} uses the defaults. An image of which it gives no
    usable boxes is counted and left out. Name that detector in `mine.second_detector` to let it influence
    which images are annotated."""


class CategorizeConfig(Config):
    """How images are assigned a category (stage `categorize`)."""

    model: Annotated[str, Location(kind="vqa", harmless=CLINIC)] = ""
    """Folder or hub id of the VQA model, the URL of an OpenAI-compatible endpoint followed by "#" and the
    model's name, or "clinic" for the embedded one; empty uses the category that each prompt was written
    for."""
    vqa: VqaConfig = VqaConfig()
    """The question and the meaning of its answers; not used by image classifiers."""
    batch: int = Field(default=64, ge=1)
    """Images per batch."""
    shard: int = Field(default=512, ge=1)
    """Images per shard."""


class WritePromptsConfig(Config):
    """Which categories are hard, and how many prompts are written for them (stage `write_prompts`)."""

    statistic: HardCategoryConfig = HardCategoryConfig()
    """The statistical test that decides whether a category is hard."""
    hard_per_category: int = Field(default=60, ge=1)
    """Prompts for further images of each hard category."""
    seeds_per_prompt: int = Field(default=2, ge=1)
    """Images generated from each of these prompts."""
    treat_per_category: int = Field(default=40, ge=1)
    """Prompts to treat the generator on, for each hard category."""
    treat_easy_per_category: int = Field(default=6, ge=0)
    """Prompts to treat the generator on, for each other category, so that treatment also sees clean
    images."""
    judge_per_category: int = Field(default=20, ge=1)
    """Held-out prompts for each hard category, for comparing the generator before and after treatment."""
    judge_easy_per_category: int = Field(default=6, ge=0)
    """Held-out prompts for each other category."""
    judge_seeds: int = Field(default=4, ge=1)
    """Images generated from each held-out prompt, by both generators with the same seeds."""


class WaitConfig(Config):
    """How many labels a round waits for (stage `wait_for_labels`)."""

    share: float = Field(default=1.0, gt=0, le=1)
    """Fraction of the queued images that must be annotated before the round continues."""


class PseudoLabelConfig(Config):
    """Which images the teacher labels (stage `pseudo_label`)."""

    limit: int = Field(default=100_000, ge=0)
    """Maximum number of images, hard cases first."""
    batch: int = Field(default=32, ge=1)
    """Images per batch."""
    shard: int = Field(default=256, ge=1)
    """Images per shard."""


class PublishConfig(Config):
    """Which labels go into a snapshot, and with what weights (stage `publish`)."""

    labels: Literal["unreturned", "approved"] = "unreturned"
    """Labels to include: "unreturned" takes all but returned and replaced ones, "approved" only those that a
    curator approved."""
    true_weight: float = Field(default=1.0, gt=0, le=1e6)
    """Sampling weight of images labelled by people in this round."""
    pseudo_weight: float = Field(default=1.0, gt=0, le=1e6)
    """Sampling weight of images labelled by the teacher."""
    real_weight: float = Field(default=1.0, gt=0, le=1e6)
    """Sampling weight of artifact-free real images."""
    previous_weight: float = Field(default=1.0, gt=0, le=1e6)
    """Sampling weight of images labelled before this round."""
    real_limit: int = Field(default=100_000, ge=0)
    """Maximum number of real images."""
    injected_limit: int = Field(default=0, ge=0)
    """Maximum number of images that “Inject artifacts” made; 0 leaves them out. The share of
    "injected" in the training's mixture says how often they are drawn."""
    injected_weight: float = Field(default=1.0, gt=0, le=1e6)
    """Sampling weight of images with an injected artifact."""


class EvaluateConfig(Config):
    """How champion and candidate are evaluated (stage `evaluate`)."""

    batch: int = Field(default=32, ge=1, le=65_536)
    """Images per batch."""
    operating_point: OperatingPointConfig = OperatingPointConfig()
    """How a trained detector's thresholds are chosen on validation."""


class PromoteConfig(Config):
    """The gate that a candidate must pass on the validation split (stage `promote`)."""

    metric: Literal["mse", "kl", "kl1m"] = "mse"
    """Metric to compare, on labelled validation images; lower is better."""
    max_ratio: float = Field(default=1.0, gt=0)
    """Highest allowed value of the candidate's metric, relative to the champion's."""
    max_real_ratio: float = Field(default=1.1, gt=0)
    """Highest allowed MSE on artifact-free validation images, relative to the champion's."""
    real_slack: float = Field(default=1e-4, ge=0)
    """Absolute increase of the MSE on artifact-free images that is always allowed."""


class TreatConfig(Config):
    """Which generator is treated, and how (stage `treat`)."""

    generator: str | None = None
    """Id of the generator to treat; null for the round's first one."""
    tuning: TreatmentConfig = TreatmentConfig()
    """Sampling, objective, optimizer, LoRA and guard."""
    real_limit: int = Field(default=2000, ge=0)
    """Maximum number of real images for the offline regularisation (DiffDoctor, Eq. 3-4)."""
    real_scorer: RealScorer = ""
    """Scorer that chooses among the real images: "clip:LOCATION", "pickscore:LOCATION",
    "hpsv2:LOCATION", or "program:NAME" for one in another environment, such as an aesthetics predictor; empty
    takes all."""
    real_least: float = 6.5
    """Lowest score of a real image that is used, with `real_scorer` (DiffDoctor: aesthetics of at least
    6.5)."""
    scorers: Scorers = ()
    """Preference models that the guard also evaluates: "clip:LOCATION", "pickscore:LOCATION",
    "hpsv2:LOCATION", or "program:NAME" for one in another environment, such as ImageReward; the worker reads
    its command from the environment variable CLINIC_SCORER_NAME."""


class JudgeConfig(Config):
    """How the treated generator is compared with the untreated one (stage `judge`)."""

    attributes: Attributes = ""
    """Folder or hub id of the model that checks whether an image shows what its prompt asks for, or "clinic"
    for the embedded one; empty skips the check. The guard uses it too."""


Part = Literal["hard", "detector", "treatment"]


class RoundRecipe(Config):
    """All settings of a round, one section for each stage."""

    name: str = "round"
    """Name of the recipe."""
    parts: tuple[Part, ...] = ("hard", "detector", "treatment")
    """What the round does after its survey: "hard" generates more images of the hard categories, "detector"
    collects labels and trains a detector on them, "treatment" treats a generator and evaluates it."""
    writer: Writer = ""
    """Prompt writer: empty for the built-in grammar, "clinic" for captions of the embedded clinic's images,
    else
    the folder, hub id or endpoint URL of a language model."""
    writing: PromptWriterConfig = PromptWriterConfig()
    """Settings of the language model; not used by grammar and captions."""
    generate: GenerateConfig = GenerateConfig()
    """Survey images."""
    diagnose: DiagnoseConfig = DiagnoseConfig()
    """Artifact maps."""
    categorize: CategorizeConfig = CategorizeConfig()
    """The category of each image."""
    write_prompts: WritePromptsConfig = WritePromptsConfig()
    """Hard categories and prompts."""
    mine: MiningConfig = MiningConfig()
    """Selection of the images to annotate."""
    wait_for_labels: WaitConfig = WaitConfig()
    """How many labels to wait for."""
    train_teacher: DetectorTrainingConfig = DetectorTrainingConfig()
    """Training of the teacher on human labels, from the champion."""
    pseudo_label: PseudoLabelConfig = PseudoLabelConfig()
    """Labels predicted by the teacher."""
    publish: PublishConfig = PublishConfig()
    """The training set."""
    retrain: DetectorTrainingConfig = DetectorTrainingConfig()
    """Joint training of the candidate on human labels and pseudo-labels."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Comparison of the candidate with the champion."""
    promote: PromoteConfig = PromoteConfig()
    """The gate of a promotion."""
    treat: TreatConfig = TreatConfig()
    """Treatment of the generator."""
    judge: JudgeConfig = JudgeConfig()
    """Comparison of the generator before and after treatment."""


class TrainingRun(Config):
    """Training of a detector outside a round: `clinic retrain --start`, or the Train desk."""

    start: Start = Field(default=None, min_length=1)
    """What training starts from: id of a registered detector; "random"; or weights of the encoder:
    "imagenet", "nvidia/mit-b0" to "nvidia/mit-b5" (non-commercial), a file, or a folder that transformers
    saved, whose head is dropped. null for the encoder weights in `training`, else the champion."""
    publish: PublishConfig = PublishConfig()
    """Which labels go into the snapshot, and with what weights."""
    training: DetectorTrainingConfig = DetectorTrainingConfig()
    """Network, optimizer and schedule."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """How champion and candidate are evaluated."""


class PromptChoice(Config):
    """Prompts of a treatment, or of its evaluation."""

    source: Literal["hard", "category", "given"] = "hard"
    """Origin of the prompts: "hard" writes them for the newest round's hard categories, "category" for
    `categories`, "given" uses `texts`."""
    categories: tuple[str, ...] = ()
    """Categories to write prompts for, with source "category"."""
    per_category: int = Field(default=20, ge=1, le=10_000)
    """Prompts written for each category."""
    texts: tuple[str, ...] = Field(default=(), max_length=100_000)
    """The prompts themselves, with source "given"."""
    seed: int = Field(default=0, ge=0)
    """Random seed of the prompt writer."""


class TreatmentRun(Config):
    """Treatment of a generator outside a round, started at the Treat desk."""

    generator: str
    """Id of the generator, or of a registered model, which is then registered as a generator."""
    weights: WeightsConfig | None = None
    """Precision of the generator's weights in memory, for treatment and evaluation; null keeps that of its
    registration. Other values register a separate generator, which new rounds use too."""
    detector: str | None = None
    """Id of the detector to treat against; null for the champion."""
    name: str = Field(default="", max_length=200)
    """Name of the treated generator; empty for the generator's name followed by "treated"."""
    prompts: PromptChoice = PromptChoice()
    """Prompts to treat the generator on."""
    judge: PromptChoice = PromptChoice(seed=1)
    """Held-out prompts for comparing both generators; the guard evaluates them too."""
    judge_seeds: int = Field(default=2, ge=1, le=64)
    """Images generated from each held-out prompt, by both generators with the same seeds."""
    writer: Writer = ""
    """Prompt writer: empty for the built-in grammar, "clinic" for captions of the embedded clinic's images,
    else
    the folder, hub id or endpoint URL of a language model."""
    tuning: TreatmentConfig = TreatmentConfig()
    """Sampling, objective, optimizer, LoRA and guard."""
    real_limit: int = Field(default=2000, ge=0)
    """Maximum number of real images for the offline regularisation (DiffDoctor, Eq. 3-4)."""
    real_scorer: RealScorer = ""
    """Scorer that chooses among the real images: "clip:LOCATION", "pickscore:LOCATION",
    "hpsv2:LOCATION", or "program:NAME" for one in another environment, such as an aesthetics predictor; empty
    takes all."""
    real_least: float = 6.5
    """Lowest score of a real image that is used, with `real_scorer` (DiffDoctor: aesthetics of at least
    6.5)."""
    scorers: Scorers = ()
    """Preference models that the guard also evaluates: "clip:LOCATION", "pickscore:LOCATION",
    "hpsv2:LOCATION", or "program:NAME" for one in another environment, such as ImageReward; the worker reads
    its command from the environment variable CLINIC_SCORER_NAME."""
    attributes: Attributes = ""
    """Folder or hub id of the model that checks whether an image shows what its prompt asks for, or "clinic"
    for the embedded one; empty skips the check."""
    lpips: Annotated[str, Location(kind="scorer")] = ""
    """Torchvision's AlexNet weights as a .safetensors file, to measure LPIPS between the images before and
    after treatment; empty measures PSNR and SSIM alone."""
    instance: str = Field(default="", pattern=r"^[\w-]*$", max_length=200)
    """Id of the run that learned the generator's instance (DreamBooth); the likeness to that instance is then
    measured before and after treatment. Empty for other generators."""


class MeasuresConfig(Config):
    """What pairs of images are measured by, besides the detector."""

    lpips: str = ""
    """LPIPS: torchvision's AlexNet weights as a .safetensors file; empty leaves LPIPS out."""
    features: Annotated[str, Location(kind="scorer", harmless=CLINIC)] = ""
    """FID, KID, precision and recall: folder or hub id of an image classifier, "clinic" for the embedded
    reader, or inception_v3:FILE with torchvision's weights as .safetensors; empty leaves them out."""
    alignment: Annotated[str, Location(kind="vqa", prefixes=("clip:",))] = ""
    """Whether an image shows its prompt: folder, hub id or endpoint URL of a VQA model, which is asked
    `question`, or clip:LOCATION for CLIPScore; empty leaves it out."""
    question: str = Field(default="Does this image show {prompt}? Answer yes or no.", min_length=1)
    """The question to the VQA model; {prompt} stands for the image's prompt."""
    attributes: Attributes = ""
    """Model that checks whether an image shows what its prompt asks for, or "clinic" for the embedded one;
    empty skips the check."""
    scorers: Scorers = ()
    """Preference models: "clip:LOCATION", "pickscore:LOCATION", "hpsv2:LOCATION", or "program:NAME" for one
    in another environment, such as ImageReward; its command is read from the environment variable
    CLINIC_SCORER_NAME."""


Axis = Literal["sampler", "steps", "guidance", "size", "weights", "strength", "second"]


class ConditionsConfig(Config):
    """Under which conditions a LoRA is compared with its base."""

    axes: tuple[Axis, ...] = ("sampler", "steps", "guidance", "size", "weights", "strength", "second")
    """What is varied, one at a time: samplers of diffusers; half and twice the steps; guidance; size;
    bfloat16, 8-bit floats and 8 bits, with the LoRA beside the weights or merged into them before; the LoRA's
    strength; a second LoRA."""
    limit: float = Field(default=0.7, gt=0, le=1)
    """Artifact frequency over the base's in the same cell, above which a cell counts as bad."""


class ComparisonSettings(Config):
    """How two generators are compared."""

    seeds: int = Field(default=1, ge=1, le=64)
    """Images generated from each prompt, by both generators with the same seeds."""
    sampling: SamplingConfig = SamplingConfig()
    """Sampler settings; those that are not given are each generator's own."""
    measures: MeasuresConfig = MeasuresConfig()
    """What else is measured."""
    conditions: ConditionsConfig = ConditionsConfig()
    """With --under: the conditions."""


class ComparisonRun(ComparisonSettings):
    """Two generators on the same prompts and seeds."""

    before: str
    """Id of the generator that is compared with, such as the base."""
    after: str
    """Id of the generator in question, such as the treated one."""
    detector: str
    """Id of the detector that finds artifacts."""


class RefiningRun(Config):
    """Self-refining training of a generator on the workspace's real images, outside a round."""

    generator: str = ""
    """Id of the generator to continue from, training its whole network; empty for a new unconditional
    UNet."""
    network: UNetConfig = UNetConfig()
    """Architecture of the new UNet."""
    name: str = Field(default="", max_length=200)
    """Name of the new generator; empty for the generator's name followed by "refined"."""
    limit: int = Field(default=20_000, ge=10)
    """Maximum number of real images; all are cropped and scaled to the generator's size."""
    features: Annotated[str, Location(kind="scorer", harmless=CLINIC)] = CLINIC
    """Network of the FID and KID to held-out real images: folder or hub id of an image classifier, "clinic"
    for the embedded reader, or inception_v3:FILE with torchvision's weights as .safetensors; empty leaves
    them out."""
    refining: RefiningConfig = RefiningConfig(
        steps=20_000, lr=2e-4, ema=0.999, sample_steps=20, highlighter=HighlighterConfig(lr=1e-4, epochs=6)
    )
    """Settings of both training phases; the defaults suit small images and an untrained highlighter."""


class HumanErrorConfig(Config):
    """How a simulated annotator's mask deviates from the oracle's prediction."""

    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Oracle confidence above which the annotator marks an artifact."""
    jitter: float = Field(default=0.6, ge=0)
    """Typical distance in pixels between the painted and the predicted outline."""
    wide: float = Field(default=0, ge=0, le=64)
    """The most pixels by which a mask is painted too wide on every side, drawn evenly for each image."""
    small: int = Field(default=20, ge=0)
    """Components below this area in pixels may be overlooked; the image's area lets all be."""
    missed: float = Field(default=0.3, ge=0, le=1)
    """Probability that such a component is overlooked."""
    false_strokes: float = Field(default=0.01, ge=0, le=1)
    """Fraction of images with a stroke on an intact region."""
    label: int = Field(default=1, ge=1, le=127)
    """Label class of the masks."""
    lead_seconds: float = Field(default=12.0, ge=0)
    """Median annotation time reported per image, in seconds (log-normal)."""
    pace: float = Field(default=0.0, ge=0)
    """Fraction of that time actually spent waiting; 0 in the demo."""


class DemoDataConfig(Config):
    """How much data a demo workspace starts with."""

    clean: int = Field(default=700, ge=10)
    """Artifact-free images for training, validation and the treatment's regularisation."""
    previous: int = Field(default=1200, ge=0)
    """Training images of the first detector, with the labels of earlier annotators."""
    validation: int = Field(default=240, ge=0)
    """Validation images like the benchmark's, with exact ground truth: an operating point chosen on mined
    images alone, which are the doubtful ones, is too low for others."""
    benchmark: int = Field(default=240, ge=6)
    """Benchmark images of hard categories with exact ground truth, flawed as often as the generator's."""
    benchmark_clean: int = Field(default=240, ge=6)
    """Artifact-free benchmark images of all categories."""
