"""Settings of sampling and treatment (torch-free)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dataengine.config import Config, Location
from dataengine.quality.config import GuardConfig, Question

Precision = Literal["float32", "bfloat16"]


class UsualSampling(Config):
    """What a generator is usually drawn with; None is not stated."""

    steps: int | None = Field(default=None, ge=1)
    """Denoising steps."""
    guidance: float | None = None
    """Guidance scale."""
    height: int | None = Field(default=None, ge=8)
    """Pixels; None draws the size that the model was trained for."""
    width: int | None = Field(default=None, ge=8)


class SamplingConfig(Config):
    """Sampling of images."""

    steps: int = Field(default=5, ge=1, le=10_000)
    """Denoising steps (DiffDoctor: 5 on FLUX.1-schnell)."""

    guidance: float | None = Field(default=None, ge=0, le=1000)
    """Guidance scale; defaults to the family's. Stable Diffusion: classifier-free, off at 1 or less.
    FLUX.1-dev: embedded. FLUX.1-schnell has none."""

    height: int | None = Field(default=None, ge=8, le=4096)
    """Height in pixels; defaults to the family's."""

    width: int | None = Field(default=None, ge=8, le=4096)
    """Width in pixels; defaults to the family's."""

    batch: int = Field(default=16, ge=1, le=4096)
    """Images per batch."""

    precision: Precision = "float32"
    """Autocast of the denoiser; the VAE always stays in float32."""


class WeightsConfig(Config):
    """Precision of a registered generator's weights in memory. Its VAE always stays in float32."""

    precision: Precision = "float32"
    """Type of the weights; bfloat16 halves them (FLUX.1: 24 GB instead of 48)."""

    bits: Literal[4, 8] | None = None
    """Quantise the denoiser to this many bits and compute in `precision` (bitsandbytes, GPU only)."""

    @property
    def description(self) -> str:
        """A short description, such as "4 bits"."""
        return f"{self.bits} bits" if self.bits else self.precision


class LoraSettings(Config):
    """The LoRA: trained layers and their rank."""

    rank: int = Field(default=16, ge=1, le=4096)
    """Rank of the two matrices (DiffDoctor: 16)."""

    alpha: float = Field(default=16.0, gt=0, le=1e6)
    """Scale; the update is multiplied by alpha / rank (1 in the authors' code, unstated in the paper)."""

    targets: Literal["attention", "all"] = "attention"
    """Target layers: the attention projections, as the authors do, or the feed-forward layers as well."""


class PixelConfig(Config):
    """Pixel-aware treatment (DiffDoctor, Eq. 2): lowers the confidence of pixels."""

    weight: float = Field(default=1.0, ge=0, le=1e6)
    """Weight of this objective; 0 turns it off, as a control."""

    pixels: Literal["all", "maximum", "above", "soft"] = "all"
    """Pixels that count: all (Eq. 2), only the highest (the paper's Fig. 4), those above a confidence (the
    authors' code: the mean of each image, then of the images), or all weighted by their own confidence
    (ours)."""

    above: float = Field(default=0.1, ge=0, lt=1)
    """Confidence from which a pixel counts, for "above"."""


class RewardConfig(Config):
    """An image-level reward, whose score is raised (DRaFT, AlignProp, ReFL) or lowered."""

    kind: Literal["clip", "pickscore", "hpsv2", "classifier"] = "classifier"
    """Kind of scorer: CLIP score, PickScore, HPSv2 (needs the extra `hpsv2`), or an image classifier's
    probability of `label`."""

    location: Annotated[str, Location(kind="scorer")]
    """Folder or hub id of the model in transformers' format, read from safetensors only; for HPSv2 the
    published file of its weights, or the folder that holds it alone."""

    label: str = ""
    """The classifier's label."""

    activation: Literal["softmax", "sigmoid"] = "softmax"
    """Whether the classifier's labels are mutually exclusive."""

    goal: Literal["raise", "lower"] = "raise"
    """Whether the score is raised, as for plausibility, or lowered, as for violence."""

    weight: float = Field(default=1.0, gt=0, le=1e6)
    """Weight of this objective."""

    @model_validator(mode="after")
    def _labelled(self) -> Self:
        if not self.location:
            raise ValueError(
                "a reward needs a scorer: name a registered one as its location, or remove the reward"
            )
        if (self.kind == "classifier") != bool(self.label):
            raise ValueError(
                f"a classifier needs a label, and other kinds have none; {self.kind} has {self.label!r}"
            )
        return self


class RegionConfig(Config):
    """Region constraint (Focus-N-Fix): penalises changes outside the artifacts of the untreated image."""

    map: Literal["detector", "saliency", "disagreement"] = "detector"
    """Source of the regions: the detector's map; the gradient saliency of the rewards, for image-level
    scorers; or where the image lowers its rewards, for scores of image and prompt."""

    reference: Literal["base", "given"] = "base"
    """The untreated reference: the base without any LoRA, or the generator as given to the run, so that
    sequential tuning keeps the gains of the first run's LoRA."""

    beta: float = Field(default=1e-3, gt=0, le=1e6)
    """Weight of the constraint (Focus-N-Fix: 1e-3 for artifacts, 5e-4 for safety), for rewards in [0, 1] at
    512 × 512: scale it with the range of another reward, and the Frobenius norm with 512 over the side."""

    form: Literal["frobenius", "rms"] = "frobenius"
    """Norm of the difference: Frobenius, which grows with the size, or root mean square per value."""

    sigma: float = Field(default=0.008, ge=0)
    """Sigma of the Gaussian filter on the map, as a share of the shorter side (the paper's 4 pixels at 512).
    The paper filters saliency maps with a kernel of 16; here detectors' maps are filtered too, and the kernel
    is odd and ends at four sigmas (33 at 512)."""

    threshold: float = Field(default=0.2, gt=0, lt=1)
    """Smoothed confidence from which a pixel belongs to a region."""

    main: float = Field(default=0.1, ge=0, le=1)
    """Regions smaller than this share of the largest one are dropped."""

    dilation: float = Field(default=0.03, ge=0, le=0.5)
    """Dilation of the regions, as a share of the shorter side."""


class OfflineConfig(Config):
    """Offline regularisation (DiffDoctor, Eq. 3-4): the ordinary diffusion loss on artifact-free images."""

    gamma: float = Field(default=0.25, gt=0, le=1e6)
    """Weight of the regularisation. It depends on the reduction, here the mean squared error over elements
    (the paper gives a norm)."""

    targets: Literal["images", "own"] = "images"
    """Targets: the artifact-free images, or the answers of the generator as given at the steps of its own
    trajectories (ours), which keep a distilled generator in its few steps and need no images."""

    times: Literal["uniform", "shifted", "logit-normal"] = "uniform"
    """Distribution of training times for flow matching, which the paper leaves open: uniform, by FLUX's
    shifted schedule (the authors' code), or logit-normal. Noise prediction always samples them uniformly."""


class NftConfig(Config):
    """DiffusionNFT (arXiv 2509.16117): the generator's own images, noised again, pull the prediction towards
    good ones and push it off bad ones. No gradient flows through chain, VAE or detector, so that detectors
    and scorers without a gradient serve as well."""

    weight: float = Field(default=1.0, ge=0, le=1e6)
    """Weight of this objective."""

    cells: bool = True
    """Whether every latent cell has its own reward, 1 − the detector's map pooled to it (ours), or every
    image one (the paper)."""

    reward: Literal["mean", "maximum", "scorers"] = "mean"
    """Reward of a cell or an image: 1 − the mean or highest confidence of its pixels, or the scores of
    `rewards`, which then need no gradient and have one value per image."""

    group: int = Field(default=4, ge=2, le=1024)
    """Images of one prompt, which are compared with each other; `batch` is a multiple of it (authors' code:
    24)."""

    beta: float = Field(default=1.0, gt=0, le=10)
    """β: how far the implicit good and bad policies lie from the old one (the paper: 1 or 0.1)."""

    clip: float = Field(default=5.0, gt=0, le=100)
    """Standard deviations at which a reward counts fully as good or bad (authors' code: 5)."""

    times: int = Field(default=2, ge=1, le=1000)
    """Noise levels at which every image is predicted in an update (authors' code: nearly all steps of the
    sampling)."""

    at: Literal["steps", "uniform"] = "steps"
    """Noise levels: the steps of the sampling, each at most once, which are all that a distilled generator
    knows (authors' code), or uniformly random times."""

    adaptive: bool = True
    """Divide squared residuals by the image's mean absolute one (authors' code)."""

    kl: float = Field(default=1e-4, ge=0, le=1e6)
    """Weight of the mean squared distance of the prediction to that of the generator as given (authors' code:
    1e-4); 0 saves a prediction."""

    flat: int = Field(default=0, ge=0)
    """Updates in which the old policy is the trained one (authors' code: 0, or 75)."""

    rate: float = Field(default=1e-3, ge=0, le=1)
    """Growth per update of the old policy's share that stays, η_i (authors' code: 0.001, or 0.0075)."""

    most: float = Field(default=0.5, ge=0, lt=1)
    """Highest η_i (authors' code: 0.5, or 0.999)."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.cells and self.reward == "scorers":
            raise ValueError(
                "scorers have one value per image and none per cell: set cells to false, or the reward to "
                "mean or maximum"
            )
        return self


class NormConfig(Config):
    """NormGuard (arXiv 2606.27771): a hinge on the norm of the prediction over that of the generator as
    given."""

    weight: float = Field(default=1.0, gt=0, le=1e6)
    """Weight of the hinge."""

    margin: float = Field(default=0.0, ge=0, le=10)
    """Growth of log ‖v‖ that costs nothing (0.05 is 5 %)."""


class DirectConfig(Config):
    """Direct-Align (SRPO): known noise is added to the finished latents, one prediction with gradient removes
    a part of it, and the rest is removed as it is known, so that the image is exact from early steps on."""

    lowest: float = Field(default=0.5, ge=0, lt=1)
    """Lowest σ of the added noise (the authors' code: steps 5 to 25 of 50, which is 0.5 to 0.9)."""

    highest: float = Field(default=0.9, gt=0, le=1)
    """Highest σ of the added noise."""

    step: float = Field(default=0.1, gt=0, le=1)
    """Share of the way to the clean image that the prediction takes (the authors' code: 0.04 to 0.3 in σ);
    with 1 it takes all of it, as in ReFL, and the known noise is not used."""

    discount: float | None = Field(default=3.0, ge=1, le=1000)
    """Lowers the gradient of low noise: at a share u of the range it is multiplied by d·u / (1 + (d − 1)·u)
    (the authors' code: d = 3); null weighs all alike."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lowest >= self.highest:
            raise ValueError(f"lowest {self.lowest} must be below highest {self.highest}")
        return self


PairSource = Literal["votes", "repairs", "corrected"]


class PreferenceConfig(Config):
    """Localized preference: Diffusion-DPO on pairs that differ in one region, in that region alone."""

    weight: float = Field(default=1.0, gt=0, le=1e6)
    """Weight of this objective."""

    beta: float = Field(default=2000.0, gt=0, le=1e6)
    """β, how closely the generator stays to the one as given (Diffusion-DPO: 2000 for SD1.5, 5000 for
    SDXL), for mean squared errors over the region."""

    margin: float | None = Field(default=2.0, gt=0, le=1000)
    """Bound of the margin: a pair whose winner leads by as much, in logits, has no gradient, so that the
    loser is not pushed away for ever; null leaves it unbounded (Diffusion-DPO)."""

    times: Literal["uniform", "steps"] = "uniform"
    """Training times: uniform, or the noise levels of the sampling steps, for few-step generators."""

    sources: tuple[PairSource, ...] = ("votes", "repairs", "corrected")
    """Where pairs come from: votes of closed studies, accepted repairs against their originals, and corrected
    against uncorrected images of one prompt and seed."""

    question: Question = "artifacts"
    """The question of a study whose majority is the winner."""

    difference: float = Field(default=0.1, gt=0, lt=1)
    """Change of a pixel, of 1, from which it belongs to the region of a pair without a mask of its own."""

    largest: float = Field(default=0.5, gt=0, le=1)
    """Largest share of the image that a region may cover; other pairs differ everywhere, and are left out."""

    limit: int = Field(default=2000, ge=1, le=1_000_000)
    """Largest number of pairs."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.sources or len(set(self.sources)) < len(self.sources):
            raise ValueError("sources must name one or more of votes, repairs, corrected, each once")
        return self


class TreatmentConfig(Config):
    """One treatment: sampling, objectives, optimizer, LoRA and guard."""

    updates: int = Field(default=110, ge=1, le=1_000_000)
    """Largest number of updates; the guard may stop earlier (DiffDoctor's preset: 750, a pass over 3,000
    prompts)."""

    batch: int = Field(default=8, ge=1, le=4096)
    """Images generated per gradient, and as many artifact-free images for the regularisation (DiffDoctor's
    code and preset: 4)."""

    accumulation: int = Field(default=1, ge=1, le=10_000)
    """Gradient accumulation: gradients averaged per update."""

    grad_steps: int = Field(default=3, ge=1, le=10_000)
    """Number of last denoising steps that the gradient flows through (t_tr; 1 in the paper)."""

    truncation: Literal["last", "random", "single", "direct"] = "last"
    """Which steps the gradient flows through: the last `grad_steps` (DRaFT-K, DiffDoctor), a random number of
    last steps up to `grad_steps` (AlignProp), one step among the last `grad_steps`, whose predicted clean
    image is evaluated (ReFL), or one prediction at known noise on the finished image (`direct`)."""

    direct: DirectConfig = DirectConfig()
    """The known noise of truncation "direct"."""

    sampling: SamplingConfig = SamplingConfig()
    """Sampling of the images."""

    checkpointing: bool = False
    """Gradient checkpointing: recompute activations block by block, and decode and evaluate one image at a
    time. Saves memory, costs time."""

    offload: tuple[Literal["text", "activations"], ...] = ()
    """Offloading to host memory: the text encoders, once all prompts are encoded, and the activations between
    forward and backward."""

    pixel: PixelConfig = PixelConfig()
    """Pixel-aware treatment."""

    rewards: tuple[RewardConfig, ...] = ()
    """Image-level scorers whose scores are raised."""

    region: RegionConfig | None = None
    """Region constraint; generates every image a second time without the LoRA."""

    nft: NftConfig | None = None
    """DiffusionNFT, on images of its own. Set `pixel.weight` to 0 to treat by it alone."""

    norm: NormConfig | None = None
    """NormGuard's hinge, beside another objective."""

    offline: OfflineConfig | None = OfflineConfig()
    """Offline regularisation; on images it needs artifact-free ones with captions. Null turns it off."""

    preference: PreferenceConfig | None = None
    """Localized preference, on pairs of a winner and a loser that the workspace holds."""

    offline_distilled: bool = False
    """Keep the offline regularisation on images for a generator that is distilled to few steps
    (FLUX.1-schnell, klein, Turbo; DiffDoctor keeps it for schnell). It is the ordinary diffusion loss, which
    pulls such a generator away from its few steps, so it is left out by default."""

    paired: bool = False
    """Draw every batch of artifact-free images half from their first half and half from their second:
    DreamBooth's instance and class."""

    lora: LoraSettings = LoraSettings()
    """The LoRA: trained layers and their rank."""

    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    """AdamW's learning rate."""

    decay: Literal["constant", "sqrt"] = "constant"
    """Learning rate schedule: constant, or divided by √i at update i (Focus-N-Fix)."""

    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's betas, the decay of its two moments."""

    weight_decay: float = Field(default=0.0, ge=0, le=1)
    """AdamW's weight decay (DiffDoctor's code and preset: 0.1)."""

    clip_norm: float = Field(default=1.0, gt=0, le=1e6)
    """Gradient clipping norm (DiffDoctor's code and preset: 5)."""

    seed: int = Field(default=0, ge=0)
    """Random seed of the initial weights, the order of the prompts, and the noise of every update."""

    guard: GuardConfig = GuardConfig()
    """The quality guard, which stops the run before the generator collapses."""

    checkpoint_every: int = Field(default=10, ge=1, le=1_000_000)
    """Updates between checkpoints: the most that a killed run repeats."""

    @property
    def measured(self) -> SamplingConfig:
        """Sampling of the guard's images, and of the generator's own trajectories."""
        return self.sampling.model_copy(update={"steps": self.guard.steps or self.sampling.steps})

    @property
    def needs_detector_gradient(self) -> bool:
        """Whether an objective differentiates the detector: the pixel loss does."""
        return self.pixel.weight > 0

    def regularised(self, distilled: bool) -> bool:
        """Whether there is an offline regularisation for a generator that is distilled, or is not."""
        own = self.offline is not None and self.offline.targets == "own"
        return self.offline is not None and (own or self.offline_distilled or not distilled)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.grad_steps > self.sampling.steps:
            raise ValueError(f"grad_steps {self.grad_steps} exceeds sampling.steps {self.sampling.steps}")
        if self.nft is not None:
            self._require_groups(self.nft)
        drawn = self.pixel.weight > 0 or self.rewards or (self.nft is not None and self.nft.weight)
        alone = not drawn and self.preference is None
        if alone and (self.offline is None or self.offline.targets == "own"):
            raise ValueError("no objective is on: give pixel a weight, add a reward, or regularise on images")
        if self.region is not None and self.region.map != "detector" and not self.rewards:
            raise ValueError(f"region.map is the {self.region.map} of rewards, but there are none: add one")
        return self

    def _require_groups(self, nft: NftConfig) -> None:
        if self.batch % nft.group:
            raise ValueError(f"batch {self.batch} is no multiple of nft.group, {nft.group} images a prompt")
        if nft.reward == "scorers" and not self.rewards:
            raise ValueError("nft.reward is that of scorers, but there are no rewards: add one")
        if nft.at == "steps" and nft.times > self.sampling.steps:
            raise ValueError(f"nft.times {nft.times} exceeds sampling.steps {self.sampling.steps}")


class UNetConfig(Config):
    """A new unconditional UNet in pixels, with random weights (DDPM)."""

    side: int = Field(default=32, ge=32, le=1024)
    """Side of its images in pixels."""

    channels: tuple[int, ...] = (32, 64, 96)
    """Channels of each level, multiples of 8; every level but the first halves the image."""

    layers: int = Field(default=1, ge=1)
    """Residual blocks in each level."""

    attention: int = Field(default=1, ge=0)
    """First level, from 0, with self-attention, which all later levels have too."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of the residual blocks."""

    variance: Literal["fixed", "learned"] = "fixed"
    """DDPM's fixed variance, or one that is learned (improved DDPM)."""

    betas: Literal["linear", "squaredcos_cap_v2"] = "linear"
    """Noise schedule: linear (DDPM) or cosine (improved DDPM)."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.channels or any(each < 8 or each % 8 for each in self.channels):
            raise ValueError(f"channels {self.channels} must be multiples of 8, one per level")
        if self.side % 2 ** (len(self.channels) - 1):
            raise ValueError(f"a side of {self.side} cannot be halved between {len(self.channels)} levels")
        return self
