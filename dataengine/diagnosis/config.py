"""Settings of the artifact detector and of its training (DiffDoctor)."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dataengine.config import Config, Location
from dataengine.licences import UNSTATED
from dataengine.records import SampleKind

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Names = Location(harmless=r"[^/\\:]+")
"""Names of networks and layers. A slash or colon would make libraries read files or query a hub."""

NVIDIA_LICENCE = "NVIDIA Source Code License (non-commercial)"

MIT: dict[str, dict[str, Any]] = {
    "b0": {"hidden_sizes": [32, 64, 160, 256], "depths": [2, 2, 2, 2], "decoder_hidden_size": 256},
    "b1": {"hidden_sizes": [64, 128, 320, 512], "depths": [2, 2, 2, 2], "decoder_hidden_size": 256},
    "b2": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 4, 6, 3], "decoder_hidden_size": 768},
    "b3": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 4, 18, 3], "decoder_hidden_size": 768},
    "b4": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 8, 27, 3], "decoder_hidden_size": 768},
    "b5": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 6, 40, 3], "decoder_hidden_size": 768},
}
"""SegFormer sizes (Xie et al. 2021, Table 6) as keyword arguments of transformers' `SegformerConfig`."""


class DetectorConfig(Config):
    """The architecture of a detector; stored as `detector.json` next to its weights."""

    name: str = "detector"
    """Display name."""

    architecture: str = "segformer"
    """"segformer" (transformers), or an architecture of segmentation-models-pytorch ("unet", "fpn",
    "deeplabv3plus", …; its own SegFormer is "smp-segformer")."""

    segformer: Annotated[dict[str, Any], Names] = Field(default_factory=lambda: dict(MIT["b5"]))
    """Size of transformers' SegFormer: "b0" to "b5", or keyword arguments of `SegformerConfig`; for
    architecture "segformer" only."""

    encoder: Annotated[str, Names] = "resnet34"
    """Encoder of a segmentation-models-pytorch architecture. Its `mit_*` encoders are under NVIDIA's
    non-commercial licence."""

    options: Annotated[dict[str, Any], Names] = Field(default_factory=dict)
    """Additional keyword arguments of a segmentation-models-pytorch architecture."""

    classes: Literal[1] = 1
    """Output channels. The detector is class-agnostic: one confidence per pixel."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean per channel, subtracted from RGB in [0, 1]."""

    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation per channel, by which RGB in [0, 1] is divided."""

    size: int = Field(default=512, ge=16, le=2048)
    """Side in pixels of the network's square input, in training and inference."""

    fit: Literal["resize", "tiles"] = "resize"
    """Handling of images of another size: "resize" squeezes the whole image into the square, as the authors
    do; "tiles" keeps the scale and blends overlapping squares. The map has the image's size."""

    overlap: float = Field(default=0.25, ge=0, le=0.5)
    """Overlap of neighbouring tiles, as a share of their side."""

    antialias: bool = True
    """Antialias when downscaling. The authors' inference does not, so it is off for the published
    checkpoint; treatment always does, as theirs."""

    pretrained: str = ""
    """Encoder weights that training started from; set by the training. Empty for random ones."""

    licence: str = "Apache-2.0"
    """Licence of the weights; defaults to NVIDIA's non-commercial licence with a `mit_*` encoder."""

    @model_validator(mode="before")
    @classmethod
    def _of_nvidia(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "licence" in given:
            return given
        network, encoder = str(given.get("architecture", "segformer")), str(given.get("encoder", ""))
        foreign = network != "segformer" and encoder.startswith("mit_")
        return given | {"licence": NVIDIA_LICENCE} if foreign else given

    @field_validator("segformer", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in MIT:
            raise ValueError(f"there is no SegFormer {value!r}; choose one of {', '.join(MIT)}")
        return dict(MIT[value])

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be positive")
        if self.architecture != "segformer" and self.size % 32:
            raise ValueError(
                f"size {self.size} must be a multiple of 32 for architecture {self.architecture!r}, "
                f"for example {-(-self.size // 32) * 32}"
            )
        return self


def published_config(variant: str = "b5") -> DetectorConfig:
    """The authors' detector: SegFormer of that variant at 512², ImageNet statistics (DiffDoctor, App. C)."""
    return DetectorConfig(
        name=f"DiffDoctor mit-{variant}", segformer=dict(MIT[variant]), antialias=False, licence=UNSTATED
    )


class AugmentationConfig(Config):
    """Augmentation of training images and their labels.

    Dynamic shrink, and strong augmentation of pseudo-labelled images, are DiffDoctor's, which names no
    numbers; flips, shifts and jitter of every image are ours.
    """

    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a left-right flip (ours)."""

    upright: tuple[str, ...] = ("sign", "word", "words", "text", "logo")
    """Categories that are never flipped, because mirrored writing is an artifact."""

    translate: float = Field(default=0.06, ge=0, lt=0.5)
    """Largest shift, as a share of the side; the border is mirrored (ours)."""

    jitter: float = Field(default=0.05, ge=0, le=0.5)
    """Standard deviation of the brightness and colour shifts and of the contrast factor, for every image
    (ours)."""

    shrink: float = Field(default=0, ge=0, le=1)
    """Probability of dynamic shrink for an image below `shrink_below`; 0.5 is our reading of DiffDoctor.
    Off by default: on the clinic it neither helped nor harmed (docs/benchmarks.md)."""

    shrink_below: float = Field(default=0.3, ge=0, le=1)
    """Dynamic shrink applies only to images whose highest predicted confidence is below this."""

    shrink_scale: tuple[float, float] = (0.25, 0.75)
    """Range of the shrunk side, as a share of the side."""

    shrink_kinds: tuple[SampleKind, ...] = ("pseudo", "real")
    """Kinds of examples to which dynamic shrink applies."""

    strong: float = Field(default=0, ge=0, le=1)
    """Probability of each strong augmentation (colour, grey, blur, CutMix) of a pseudo-labelled image; a
    quarter of it for grey. 0, the default, turns strong augmentation off: on the clinic it was slightly
    harmful."""

    strong_colour: float = Field(default=0.3, ge=0, le=1)
    """Largest relative change of brightness, contrast and saturation in strong augmentation."""

    strong_blur: float = Field(default=0.004, ge=0, le=0.1)
    """Largest blur sigma in strong augmentation, as a share of the side (2 pixels at 512)."""

    resave: float = Field(default=0, ge=0, le=1)
    """Probability that an image is resized, blurred and made noisy a little and saved as JPEG or WebP, as
    images on the web are. Without it a detector of lossless images finds less in compressed ones."""

    resave_quality: tuple[int, int] = (40, 95)
    """Range of the quality of these saves, from 1 to 100."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.shrink_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"shrink_scale {self.shrink_scale} must be 0 < low <= high <= 1")
        if not 1 <= self.resave_quality[0] <= self.resave_quality[1] <= 100:
            raise ValueError(f"resave_quality {self.resave_quality} must be 1 <= low <= high <= 100")
        return self


class PseudoTargetConfig(Config):
    """Training targets from pseudo-labels (DiffDoctor)."""

    form: Literal["soft", "thresholded"] = "soft"
    """"soft" uses the confidences; "thresholded" rounds them to 0 or 1 at `threshold`."""

    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Confidence from which a thresholded target is 1."""

    leave_out: tuple[float, float] | None = None
    """Pixels whose confidence lies in this open range are ignored, for example (0.3, 0.7), where the teacher
    is uncertain. None uses all pixels."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.leave_out is not None and not 0 <= self.leave_out[0] < self.leave_out[1] <= 1:
            raise ValueError(f"leave_out {self.leave_out} must be 0 <= low < high <= 1")
        return self


class OperatingPointConfig(Config):
    """How a detector's operating point is chosen on validation: the confidences from which it flags an image
    and a component."""

    rule: Literal["false_alarm_at", "f2", "recall_at"] = "false_alarm_at"
    """"false_alarm_at" takes the fewest false alarms at which `recall` of the flawed images are flagged, so
    that successive detectors miss alike; "f2" the highest F2 of images, in which a miss weighs four times as
    much as a false alarm; "recall_at" the highest recall at which at most `false_alarm` of the images without
    a flaw are flagged. The threshold of components is that of their highest F2, and never above that of
    images."""

    recall: float = Field(default=0.9, gt=0, le=1)
    """Lowest share of flawed images that are flagged, for "false_alarm_at"."""

    false_alarm: float = Field(default=0.05, ge=0, lt=1)
    """Highest share of images without a flaw that are flagged, for "recall_at"."""


class LossConfig(Config):
    """The loss of a detector's training, a weighted sum. The default is the paper's squared error alone,
    which rewards silence where artifacts are small."""

    squared: float = Field(default=1.0, ge=0, le=1e6)
    """Weight of the squared error (DiffDoctor, Eq. 1)."""

    focal: float = Field(default=0.0, ge=0, le=1e6)
    """Weight of the focal loss (Lin et al. 2017), whose gradient does not vanish where an artifact is missed
    with confidence."""

    focal_gamma: float = Field(default=2.0, ge=0, le=5)
    """Exponent γ of the focal loss: pixels that are right already count less; 0 is cross-entropy."""

    dice: float = Field(default=0.0, ge=0, le=1e6)
    """Weight of the Dice loss of flawed images (Milletari et al. 2016), in which a small artifact counts as
    much as a large one."""

    peak: float = Field(default=0.0, ge=0, le=1e6)
    """Weight of the cross-entropy of an image's highest confidences against whether it is flawed (top
    instances, Li & Vasconcelos 2015): what an image is flagged by is trained as such."""

    peak_share: float = Field(default=1 / 256, gt=0, le=1)
    """Share of an image's pixels whose mean is its highest confidence in `peak`."""

    flawed_pixels: float = Field(default=1.0, gt=0, le=1000)
    """Weight of a flawed pixel in squared error and focal loss, relative to a clean one; above 1 fewer
    artifacts are missed, at the price of false alarms."""

    @model_validator(mode="after")
    def _has_a_term(self) -> Self:
        if self.squared + self.focal + self.dice + self.peak == 0:
            raise ValueError("the loss has no term: give squared, focal, dice or peak a weight above 0")
        return self


class DetectorTrainingConfig(Config):
    """One training run of a detector.

    DiffDoctor's schedule is unpublished: steps, batch, rates and warm-up are those of PAL4VST's
    configurations at 512 pixels; clipping, averaged weights, mixture and balance are ours.
    """

    detector: DetectorConfig = Field(default_factory=DetectorConfig)
    """Architecture when training starts from random or encoder weights; unused when it starts from a
    detector."""

    name: str = "detector"
    """Name of the trained detector."""

    steps: int = Field(default=40_000, ge=1, le=10_000_000)
    """Updates."""

    batch: int = Field(default=8, ge=1, le=65_536)
    """Images per update, over all devices."""

    lr: float = Field(default=6e-5, gt=0, le=1)
    """Peak learning rate of the encoder."""

    encoder_weights: Annotated[str, Location(harmless=r"|imagenet|nvidia/mit-b[0-5]")] = ""
    """Weights of the encoder when training starts from no detector: "imagenet" for those that the encoder's
    library publishes, "nvidia/mit-b0" to "nvidia/mit-b5" for SegFormer (non-commercial licence), a file, or a
    folder that transformers saved, whose head is dropped. Empty for random weights."""

    encoder_factor: float = Field(default=1.0, gt=0, le=1000)
    """Learning rate of the encoder, as a factor of `lr`."""

    encoder_frozen: int = Field(default=0, ge=0, le=10_000_000)
    """Updates at the start during which only the decode head is trained."""

    head_factor: float = Field(default=10.0, gt=0, le=1000)
    """Learning rate of the decode head, as a multiple of the encoder's."""

    weight_decay: float = Field(default=0.01, ge=0, le=1)
    """AdamW's weight decay; not applied to norms and biases."""

    warmup: float = Field(default=0.0375, ge=0, lt=1)
    """Share of the steps used for linear warm-up (1,500 of 40,000)."""

    power: float = Field(default=1.0, ge=0, le=20)
    """Exponent of the polynomial decay after the warm-up."""

    clip: float = Field(default=1.0, gt=0, le=1e6)
    """Gradient clipping norm (ours). The loss is a mean over pixels, where DiffDoctor's Eq. 1 prints the
    squared norm of an image: AdamW absorbs the factor, this limit does not."""

    ema: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the exponential moving average of the weights, with warm-up (1 + step) / (10 + step); 0 saves
    the last weights (ours)."""

    mixture: dict[SampleKind, float] = Field(
        default={"true": 0.4, "pseudo": 0.3, "real": 0.15, "previous": 0.15, "injected": 0.15}
    )
    """Share of each kind of example in a batch; the share of a missing kind goes to the others (ours; the
    paper trains on all jointly)."""

    kind_weight: dict[SampleKind, float] = Field(default={})
    """Loss weight per kind of example; 1 for kinds not listed."""

    pseudo: PseudoTargetConfig = PseudoTargetConfig()
    """Targets from pseudo-labels."""

    balance: float = Field(default=0.5, ge=0, le=1)
    """Balancing of category × rarest class × flawed/clean within a kind, where n examples have the weight
    n^(1 − balance): 0 follows the data, 1 is uniform (ours; the paper balances by adding data)."""

    flawed: float | None = Field(default=None, ge=0, le=1)
    """Share of flawed images within each kind that has flawed and clean ones; null leaves it to `balance`."""

    loss: LossConfig = LossConfig()
    """Loss terms and their weights."""

    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig)
    """Image augmentation."""

    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision. "fp16" scales the loss and needs a GPU; CPUs compute in float32."""

    device: Literal["auto", "cpu"] = "auto"
    """Device; "auto" uses the one that accelerate finds."""

    workers: int = Field(default=2, ge=1, le=64)
    """Threads that decode the next batch during an update."""

    checkpoint_every: int = Field(default=500, ge=1, le=10_000_000)
    """Steps between checkpoints: the most that a killed run repeats."""

    seed: int = Field(default=0, ge=0)
    """Random seed of initial weights, order of examples and augmentation."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        for name in ("mixture", "kind_weight"):
            shares: dict[SampleKind, float] = getattr(self, name)
            if any(share < 0 for share in shares.values()):
                raise ValueError(f"{name} {shares} must not be negative")
        return self


class DynamicsConfig(Config):
    """Score dynamics (ASCED): artifacts as abrupt changes of the predicted image during sampling.

    Lengths are shares of the shorter side and areas shares of the image, so that one setting holds for pixels
    and latents of any size. The defaults are the released code's values at 256 × 256.
    """

    form: Literal["robust", "paper"] = "robust"
    """Which changes are abnormal. "robust" is the authors' released code, on x̂0: smoothed changes above the
    step's median and MAD, then components by area and thickness. "paper" is Eq. 4 alone, on the weighted
    score: above max(MAD, mean of the score bank), without smoothing or choice of components."""

    space: Literal["latent", "pixel"] = "latent"
    """Where changes are measured: in the latents, at no cost, or in 8-bit images as in the released code, at
    the cost of one decoding per step."""

    start: float = Field(default=0.8, gt=0, le=1)
    """Start of the window, from noise = 1 to image = 0, after the layout has settled (0.8 is ours)."""

    stop: float = Field(default=0.2, ge=0, lt=1)
    """End of the window on the same scale. For maps the last frame is at or above it (0.2 is ours); for
    correction it is T_c, and the last frame lies one step before."""

    deviations: float = Field(default=3.0, gt=0)
    """Form "robust": a change is abnormal above this many scaled MADs over the median."""

    sigma: float = Field(default=2 / 256, ge=0, le=0.5)
    """Form "robust": sigma of the Gaussian filter on the changes, which also mixes the channels; 0 turns it
    off."""

    smallest: float = Field(default=100 / 256**2, ge=0, le=1)
    """Form "robust": components must be larger than this share of the image."""

    largest: float = Field(default=10_000 / 256**2, gt=0, le=1)
    """Form "robust": components must be smaller than this share of the image."""

    erosion: float = Field(default=5 / 256, ge=0, le=0.5)
    """Form "robust": side of the square of the erosion; components that it removes entirely are dropped."""

    dilation: float = Field(default=0.0, ge=0, le=0.5)
    """Growth r of the regions, by a square of side 2r + 1; none for maps and 5/256 for correction, as in the
    released code."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.start <= self.stop:
            raise ValueError(
                f"the window runs from start {self.start} down to stop {self.stop}; start must be higher"
            )
        if self.smallest >= self.largest:
            raise ValueError(f"smallest {self.smallest:g} must be below largest {self.largest:g}")
        if self.form == "paper" and self.space == "pixel":
            raise ValueError(
                "the paper's form measures the score, which is defined in latents: set space=latent"
            )
        return self


class BayesDiffConfig(Config):
    """Uncertainty of the denoiser (BayesDiff): the pixel-wise variance of an image, by a last-layer Laplace
    approximation that is carried along the chain."""

    images: int = Field(default=500, ge=1, le=100_000)
    """At most this many real images are used to fit the posterior (ours; the authors take about 1,000)."""

    prior_precision: float = Field(default=1.0, gt=0)
    """Precision of the weights' prior (the authors' 1)."""

    samples: int = Field(default=10, ge=1, le=1000)
    """States drawn around each step's own, at each of which the model is asked once (the authors' 10)."""

    space: Literal["latent", "pixel"] = "pixel"
    """Where the variance is taken: in the latents, or over decoded draws, as the authors do."""

    deviations: float = Field(default=3.0, gt=0)
    """A place is suspect above this many scaled MADs over the image's median (ours; the rule of score
    dynamics)."""

    seed: int = Field(default=0, ge=0)
    """Random seed of the fit's noise and of the drawn states."""


class HighlighterConfig(Config):
    """The flaw highlighter: a VGG16 that classifies real against generated. The defaults are the authors'
    values (self-refining diffusion), but for the initial weights, which are ImageNet's there."""

    name: str = "flaw highlighter"
    """Display name."""

    weights: Annotated[str, Location()] = ""
    """Initial weights: a file of torchvision's VGG16 as safetensors; empty for random weights."""

    lr: float = Field(default=2e-5, gt=0, le=1)
    """AdamW's peak learning rate; random weights need a larger one."""

    betas: tuple[float, float] = (0.5, 0.999)
    """AdamW's decay rates of the two moments. The one-cycle schedule, the authors' too, sets the first one to
    0.85 to 0.95 in its course."""

    batch: int = Field(default=64, ge=2, le=65_536)
    """Images per update."""

    epochs: int = Field(default=30, ge=1, le=100_000)
    """Passes over the images."""

    keep: Literal["best", "last"] = "best"
    """Which epoch's weights are kept: the first of the highest accuracy on held-out images, or the last."""

    head: Literal["flat", "pooled"] = "flat"
    """What the classifier reads: all cells of the last pooling, 512·(side/32)² values, above 256 pixels
    averaged to 8 × 8 cells; or the mean of the last convolution, 512 values."""

    cam: Literal["softmax", "logit"] = "softmax"
    """Output of which the map is Grad-CAM: the probability of "generated", or its logit."""

    level: Literal["range", "maximum"] = "range"
    """Scale of each map: minus its minimum, over its maximum; or over its maximum only."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Mean of the input's channels in [0, 1], which is subtracted."""

    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Deviation of the input's channels, by which it is divided."""

    seed: int = Field(default=0, ge=0)
    """Random seed of the initial weights and the order."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas}: each must be at least 0 and below 1")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std}: each must be above 0")
        return self
