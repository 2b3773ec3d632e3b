"""Settings of sampling and treatment (torch-free)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dataengine.config import Config, Location
from dataengine.diagnosis.config import DynamicsConfig, HighlighterConfig
from dataengine.quality.config import GuardConfig

Precision = Literal["float32", "bfloat16"]


class SamplingConfig(Config):
    """How images are drawn."""

    steps: int = Field(default=5, ge=1)
    """Denoising steps (DiffDoctor: 5 on FLUX.1-schnell)."""

    guidance: float | None = Field(default=None, ge=0)
    """Guidance scale; the family's own when not given. Stable Diffusion: classifier-free, 1 or less
    draws without it. FLUX.1-dev: embedded. FLUX.1-schnell takes none."""

    height: int | None = Field(default=None, ge=8, le=4096)
    """Height in pixels; the family's own when not given."""

    width: int | None = Field(default=None, ge=8, le=4096)
    """Width in pixels; the family's own when not given."""

    batch: int = Field(default=16, ge=1)
    """Images drawn at once."""

    precision: Precision = "float32"
    """Autocast of the denoiser; the VAE always stays in float32."""


class WeightsConfig(Config):
    """How a registered generator's weights lie in memory. Its VAE always stays in float32."""

    precision: Precision = "float32"
    """Type of the weights; bfloat16 halves them (FLUX.1: 24 GB instead of 48)."""

    bits: Literal[4, 8] | None = None
    """Store the denoiser in so few bits and compute in `precision` (bitsandbytes, on a GPU only)."""

    @property
    def description(self) -> str:
        """Two words for people, such as "4 bits"."""
        return f"{self.bits} bits" if self.bits else self.precision


class LoraSettings(Config):
    """The layers that learn."""

    rank: int = Field(default=16, ge=1)
    """Rank of the two matrices (DiffDoctor: 16)."""

    alpha: float = Field(default=16.0, gt=0)
    """Strength; the update is scaled by alpha / rank."""

    targets: Literal["attention", "all"] = "attention"
    """Which linear layers: the attention projections, as the authors do, or those of the feed-forward
    parts too."""


class PixelConfig(Config):
    """Pixel-aware treating (DiffDoctor, Eq. 2): which pixels' confidence is lowered."""

    weight: float = Field(default=1.0, ge=0)
    """Factor of this objective; 0 leaves it out, as a control."""

    pixels: Literal["all", "maximum", "above", "soft"] = "all"
    """All pixels (Eq. 2), only the highest (the paper's Fig. 4), those above a confidence (the authors'
    code), or all weighted by their own confidence."""

    above: float = Field(default=0.1, ge=0, lt=1)
    """Confidence from which a pixel counts, for "above"."""


class RewardConfig(Config):
    """An image-level scorer whose score is raised (DRaFT, AlignProp, ReFL), or lowered."""

    kind: Literal["clip", "pickscore", "classifier"] = "classifier"
    """CLIP score, PickScore, or the probability that an image classifier gives to `label`."""

    location: Annotated[str, Location(kind="scorer")]
    """Folder or hub id of the model in transformers' format, read from safetensors only."""

    label: str = ""
    """The classifier's label."""

    activation: Literal["softmax", "sigmoid"] = "softmax"
    """Whether the classifier's labels exclude each other."""

    goal: Literal["raise", "lower"] = "raise"
    """Whether a high score is wanted, as of plausibility, or a low one, as of violence."""

    weight: float = Field(default=1.0, gt=0)
    """Factor of this objective."""

    @model_validator(mode="after")
    def _labelled(self) -> Self:
        if (self.kind == "classifier") != bool(self.label):
            raise ValueError(
                f"a label belongs to a classifier and to nothing else; {self.kind} has {self.label!r}"
            )
        return self


class RegionConfig(Config):
    """Region constraint (Focus-N-Fix): outside the artifacts of the untreated image nothing shall change."""

    map: Literal["detector", "saliency"] = "detector"
    """Where the untreated image is at fault: the detector's map, or the gradient saliency of the rewards, for
    scorers that give a number only."""

    reference: Literal["base", "given"] = "base"
    """What counts as untreated: the base without any LoRA, or the generator as it was given to the run, so
    that sequential tuning keeps what the LoRA of the first run has won."""

    beta: float = Field(default=1e-3, gt=0)
    """Factor of the constraint (Focus-N-Fix: 1e-3 for artifacts, 5e-4 for safety)."""

    form: Literal["frobenius", "rms"] = "frobenius"
    """Frobenius norm of the difference, which grows with the size, or its root mean square per value."""

    sigma: float = Field(default=0.008, ge=0)
    """Deviation of the Gaussian over the map, as a share of the shorter side (the paper's 4 pixels at
    512)."""

    threshold: float = Field(default=0.2, gt=0, lt=1)
    """Smoothed confidence from which a pixel belongs to a region."""

    main: float = Field(default=0.1, ge=0, le=1)
    """Regions smaller than this share of the largest one are dropped."""

    dilation: float = Field(default=0.03, ge=0, le=0.5)
    """Growth of the regions, as a share of the shorter side."""


class OfflineConfig(Config):
    """Offline regularisation (DiffDoctor, Eq. 3-4): the ordinary diffusion loss on artifact-free images."""

    gamma: float = Field(default=0.25, gt=0)
    """Factor of the regularisation. It depends on the reduction, which here is the mean squared error over
    elements (the paper prints a norm)."""

    times: Literal["uniform", "logit-normal"] = "uniform"
    """How times are drawn for flow matching; noise prediction always draws them uniformly."""


class CorrectionConfig(Config):
    """Correction while an image is drawn (ASCED): what looks broken on the way is drawn again."""

    method: Literal["ttc", "replacement", "clipping", "sargd"] = "ttc"
    """Trajectory-aware targeted correction: the region starts again from x̂0 with noise on it (Eq. 6). State
    replacement: from x̂0 of an earlier step. Score clipping: the score may not change by more than the
    threshold. SARGD, adapted: from the window's beginning on, the region is held to the first x̂0."""

    regions: Literal["dynamics", "detector", "everywhere"] = "dynamics"
    """Where: what score dynamics find, what the trained detector finds on x̂0, or the whole image, as a
    control."""

    dynamics: DynamicsConfig = DynamicsConfig(stop=0.48)
    """The window, which ends where the correction is made (ASCED: about 0.48), and how regions are found
    in it."""

    repeated: bool = False
    """TTC and state replacement: look for regions and draw them again at every step of the window, not only
    at its end. The window may then begin early, while a part can still come out otherwise, and end late,
    since what is found again is drawn again."""

    gamma: float = Field(default=0.2, ge=0)
    """TTC: strength of the noise on x̂0."""

    earlier: int = Field(default=2, ge=1)
    """State replacement: how many steps back its x̂0 is taken from."""

    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Confidence from which the detector's pixels belong to a region."""

    cover: float = Field(default=0.5, gt=0, le=1)
    """An image whose regions cover more than this share is left as it is: that is no local fault, and
    drawing everything again brings as many artifacts as before."""

    seed: int = Field(default=0, ge=0)
    """Varies the noise of the correction, which each image's own seed decides otherwise."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.method == "clipping" and self.dynamics.space == "pixel":
            raise ValueError("score clipping works on the latents' own changes: take dynamics.space=latent")
        if self.method == "sargd" and self.regions == "dynamics":
            raise ValueError("SARGD goes by a trained detector: take regions=detector")
        if self.repeated and self.method in ("clipping", "sargd"):
            raise ValueError(f"{self.method} works at every step of the window already: leave repeated out")
        if self.repeated and self.regions == "dynamics":
            raise ValueError("dynamics would take a correction for a jump: repeat with regions=detector")
        return self

    @property
    def needs_detector(self) -> bool:
        """Whether a trained detector takes part."""
        return self.regions == "detector"


class GuidanceConfig(Config):
    """Guidance without training (Focus-N-Fix): the chain is pulled towards what is judged well."""

    kind: Literal["clean", "reward"] = "clean"
    """"clean": the gradient runs through VAE and detector only, and moves the next latents. "reward": it runs
    through the denoiser as well, and changes the predicted noise (Focus-N-Fix's baseline)."""

    reward: RewardConfig | None = None
    """What is raised, for "reward"; without one the detector's mean squared confidence is lowered, as always
    for "clean"."""

    region: RegionConfig | None = None
    """Guide only inside the detector's regions of x̂0."""

    start: float = Field(default=0.8, gt=0, lt=1)
    """Where guidance begins, counted from noise = 1 to image = 0 (the paper's step 10 of 50)."""

    stop: float = Field(default=0.0, ge=0, lt=1)
    """Where it ends."""

    strength: float = Field(default=25.0, gt=0)
    """"clean": length λ of the move at the first step, for latents of the size of FLUX's at 1024 × 1024;
    others move by as much per value."""

    last_strength: float = Field(default=1.0, ge=0)
    """Likewise at the last step; in between λ falls quadratically."""

    scale: float = Field(default=2.0, gt=0)
    """"reward": λ of ε̂ = ε − λ·σ_t·∇r."""

    clip_norm: float = Field(default=2.0, gt=0)
    """"reward": each image's gradient is scaled down to this norm."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.start <= self.stop:
            raise ValueError(f"guidance runs down from start {self.start}, so stop {self.stop} must be less")
        if self.reward is not None and self.kind != "reward":
            raise ValueError("a reward guides through the denoiser: take kind=reward")
        if self.region is not None and self.region.map != "detector":
            raise ValueError("guidance takes its regions from the detector: take region.map=detector")
        return self

    @property
    def needs_detector(self) -> bool:
        """Whether a trained detector takes part."""
        return self.reward is None or self.region is not None


class TreatmentConfig(Config):
    """One treatment: sampling, objectives, optimizer, LoRA and guard."""

    updates: int = Field(default=110, ge=1)
    """Updates of the weights, at most; the guard may stop earlier."""

    batch: int = Field(default=8, ge=1)
    """Images drawn for one gradient, and as many artifact-free ones for the regularisation."""

    accumulation: int = Field(default=1, ge=1)
    """Gradients averaged for one update."""

    grad_steps: int = Field(default=3, ge=1)
    """Last denoising steps that the gradient flows through (t_tr; the paper takes 1)."""

    truncation: Literal["last", "random", "single"] = "last"
    """Which steps the gradient flows through: the last `grad_steps` (DRaFT-K, DiffDoctor), a random number of
    last steps up to `grad_steps` (AlignProp), or one step among the last `grad_steps`, whose prediction of
    the clean image is judged (ReFL)."""

    sampling: SamplingConfig = SamplingConfig()
    """How the images are drawn."""

    checkpointing: bool = False
    """Recompute activations block by block instead of keeping them, and decode and judge one image at a
    time: less memory, more time."""

    offload: tuple[Literal["text", "activations"], ...] = ()
    """What waits in host memory: the text encoders, which are done once all prompts are encoded, and the
    activations between forward and backward."""

    pixel: PixelConfig = PixelConfig()
    """Pixel-aware treating."""

    rewards: tuple[RewardConfig, ...] = ()
    """Image-level scorers whose scores are raised."""

    region: RegionConfig | None = None
    """Region constraint; draws every image a second time without adapter."""

    offline: OfflineConfig | None = OfflineConfig()
    """Offline regularisation; needs artifact-free images with captions."""

    lora: LoraSettings = LoraSettings()
    """The layers that learn."""

    learning_rate: float = Field(default=1e-4, gt=0)
    """AdamW's step size."""

    decay: Literal["constant", "sqrt"] = "constant"
    """Whether the step size stays, or is divided by √i at update i (Focus-N-Fix)."""

    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay of the two moments."""

    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's weight decay (the authors' code takes 0.1)."""

    clip_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm (the authors' code takes 5)."""

    seed: int = Field(default=0, ge=0)
    """Decides prompts, noise and initial weights of every update."""

    guard: GuardConfig = GuardConfig()
    """When the run has gone too far."""

    checkpoint_every: int = Field(default=10, ge=1)
    """Updates that a kill may cost at most."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.grad_steps > self.sampling.steps:
            raise ValueError(f"grad_steps {self.grad_steps} exceeds the {self.sampling.steps} steps in all")
        if self.pixel.weight == 0 and self.offline is None and not self.rewards:
            raise ValueError(
                "nothing to learn: give pixel a weight, name a reward, or keep the offline regularisation"
            )
        if self.region is not None and self.region.map == "saliency" and not self.rewards:
            raise ValueError("the region's map is the saliency of rewards, and there are none; name one")
        return self


class UNetConfig(Config):
    """A new unconditional UNet in pixels, with random weights (DDPM)."""

    side: int = Field(default=32, ge=32, le=1024)
    """Sides of its pictures in pixels."""

    channels: tuple[int, ...] = (32, 64, 96)
    """Channels of each level, multiples of 8; every level but the first halves the picture."""

    layers: int = Field(default=1, ge=1)
    """Residual blocks in each level."""

    attention: int = Field(default=1, ge=0)
    """First level, from 0, with self-attention; the later ones have it too."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of the residual blocks."""

    variance: Literal["fixed", "learned"] = "fixed"
    """DDPM's fixed variance, or one that is learned (improved DDPM)."""

    betas: Literal["linear", "squaredcos_cap_v2"] = "linear"
    """Noise over the steps: DDPM's, or improved DDPM's cosine."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.channels or any(each < 8 or each % 8 for each in self.channels):
            raise ValueError(f"channels {self.channels} must be multiples of 8, one for each level")
        if self.side % 2 ** (len(self.channels) - 1):
            raise ValueError(f"a side of {self.side} cannot be halved between {len(self.channels)} levels")
        return self


class RefiningConfig(Config):
    """Self-refining training of a generator's whole denoiser."""

    steps: int = Field(default=500_000, ge=2)
    """Updates in all."""

    refinement: float = Field(default=0.5, ge=0, lt=1)
    """Share of them, at the end, that is refinement; 0 is ordinary training, for comparison."""

    forward: float | None = Field(default=None, ge=0)
    """λ of the noise, ε + λ·M; 0 leaves it alone. When not given, 0.01 in pixels and 0 in latents, where the
    map has no place."""

    reverse: float = Field(default=0.025, ge=0)
    """λ of keys and values, K·(1 + λ·M_emb); 0 leaves them alone."""

    form: Literal["both", "state", "target"] = "both"
    """Where the raised noise goes: into x_t and the target, as the paper prints, or into one of them alone,
    as either official repository does."""

    cycle: int = Field(default=100, ge=1)
    """Updates between two mean flaw activation maps."""

    sample_steps: int = Field(default=20, ge=2)
    """DDIM steps of the images that these are taken of."""

    highlighted: int = Field(default=1000, ge=12)
    """Images of either kind that the flaw highlighter learns from when refinement begins."""

    highlighter: HighlighterConfig = HighlighterConfig()
    """Its training."""

    batch: int = Field(default=64, ge=1)
    """Images in one update, and those that a mean map is taken of."""

    lr: float = Field(default=1e-4, gt=0)
    """AdamW's step size."""

    dropped: float = Field(default=0.1, ge=0, lt=1)
    """Share of prompts that are left out, so that the model can be guided; unconditional ones have none."""

    bound: float = Field(default=0.001, ge=0)
    """Factor of the variational bound where the network learns its variance (improved DDPM)."""

    precision: Precision = "float32"
    """Autocast of the denoiser; its weights stay in float32."""

    checkpointing: bool = False
    """Recompute activations block by block instead of keeping them: less memory, more time."""

    ema: float = Field(default=0.9999, ge=0, lt=1)
    """Decay of the averaged weights, which are kept."""

    seed: int = Field(default=0, ge=0)
    """Decides order, noise, times, and first weights of the embeddings."""

    checkpoint_every: int = Field(default=500, ge=1)
    """Updates that a kill may cost at most."""
