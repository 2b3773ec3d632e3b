"""Published treatment methods as settings of `tuning.treat` (torch-free).

Differences from the papers are listed in docs/published.md; what a paper and its authors' code leave open
follows `TreatmentConfig`. Lengths, batches and samplers depend on the generator: take a preset and change
those with `model_copy(update=…)`.
"""

from dataengine.errors import ConfigRefused
from dataengine.treatment.config import (
    LoraSettings,
    NftConfig,
    OfflineConfig,
    PixelConfig,
    PreferenceConfig,
    RegionConfig,
    RewardConfig,
    SamplingConfig,
    TreatmentConfig,
)

NO_PIXELS = PixelConfig(weight=0.0)


ARTIFACT_BETA = 1e-3
"""Focus-N-Fix's β against artifacts, for a reward in [0, 1] and images of 512 × 512."""

MEAN_CONFIDENCE = 0.065
"""Mean confidence of Stable Diffusion 1.5's images (DiffDoctor, Table 2: 6.51 %): all that a treatment can
gain if the mean confidence is its reward. FLUX.1: 0.0156."""


def diffdoctor(pixels: PixelConfig | None = None, offline: bool = True) -> TreatmentConfig:
    """Pixel-aware treatment as published (DiffDoctor, Algorithm 1 and Sec. 4.1): five steps, t_tr = 1, rank
    16, lr 1e-4, γ = 0.25; batch, betas, weight decay and clipping from the authors' code."""
    return TreatmentConfig(
        # One pass over the paper's 3,000 prompts (Algorithm 1); the authors' code counts 8 updates an epoch.
        updates=750,
        batch=4,
        grad_steps=1,
        sampling=SamplingConfig(steps=5),
        pixel=pixels or PixelConfig(),
        offline=OfflineConfig() if offline else None,
        # The paper gives no alpha; the authors' code has rank 8 and alpha 8, the same scale of 1.
        lora=LoraSettings(rank=16, alpha=16.0),
        learning_rate=1e-4,
        betas=(0.9, 0.999),
        weight_decay=0.1,
        clip_norm=5.0,
        checkpointing=True,
    )


def draft(*rewards: RewardConfig, last: int = 2, sampling: SamplingConfig | None = None) -> TreatmentConfig:
    """DRaFT-K (Clark et al. 2024) with Focus-N-Fix's settings: gradient through the last K steps, lr
    2e-5/√i, rank 64. Raises `ConfigRefused` without a reward, as do the methods below."""
    return _direct("DRaFT", rewards, last, sampling or SamplingConfig(steps=50))


def align_prop(*rewards: RewardConfig, sampling: SamplingConfig | None = None) -> TreatmentConfig:
    """AlignProp (Prabhudesai et al. 2023): the gradient flows through a random number of last steps."""
    plan = sampling or SamplingConfig(steps=50)
    config = _direct("AlignProp", rewards, plan.steps, plan)
    return _updated(config, {"truncation": "random", "checkpointing": True})


def refl(*rewards: RewardConfig, among: int = 10, sampling: SamplingConfig | None = None) -> TreatmentConfig:
    """ReFL (Xu et al. 2023, Algorithm 1): the reward is that of the clean image predicted at one random step
    among the last ten of 40."""
    config = _direct("ReFL", rewards, among, sampling or SamplingConfig(steps=40))
    return _updated(config, {"truncation": "single"})


def direct_align(*rewards: RewardConfig, sampling: SamplingConfig | None = None) -> TreatmentConfig:
    """Direct-Align (SRPO, Shen et al. 2025): the reward of the finished image after one prediction at known
    noise, whose gradient reaches early steps; σ, step, discount and the 26 steps are the authors' code's."""
    config = _direct("Direct-Align", rewards, 1, sampling or SamplingConfig(steps=26))
    return _updated(config, {"truncation": "direct"})


def direct_align_on_detector(sampling: SamplingConfig | None = None) -> TreatmentConfig:
    """`direct_align` with the detector as its reward, r = −mean confidence (ours; no paper does this)."""
    return _updated(_settings(1, sampling or SamplingConfig(steps=26)), {"truncation": "direct"})


def localized_preference(preference: PreferenceConfig | None = None) -> TreatmentConfig:
    """Localized preference alone: Diffusion-DPO in the region in which pairs differ, with a bound on the
    margin (arXiv 2605.25759). Images are drawn for the guard only."""
    changes = {"pixel": NO_PIXELS, "preference": preference or PreferenceConfig(), "decay": "constant"}
    return _updated(_settings(1, SamplingConfig(steps=26)), changes)


def focus_n_fix(*rewards: RewardConfig, beta: float = ARTIFACT_BETA) -> TreatmentConfig:
    """Focus-N-Fix (Eq. 2) against artifacts: J = r − β‖(1 − M) ⊙ (Î_0 − Î)‖_F, M from the detector."""
    config = _direct("Focus-N-Fix", rewards, 2, SamplingConfig(steps=50))
    return _updated(config, {"region": RegionConfig(beta=beta)})


def draft_on_detector(last: int = 2, sampling: SamplingConfig | None = None) -> TreatmentConfig:
    """`draft` with the detector as its reward, r = −mean confidence (ours; no paper does this)."""
    return _settings(last, sampling or SamplingConfig(steps=50))


def focus_n_fix_on_detector(beta: float = ARTIFACT_BETA * MEAN_CONFIDENCE) -> TreatmentConfig:
    """`focus_n_fix` with the detector as its reward, r = −mean confidence (ours; no paper does this).

    This reward can gain `MEAN_CONFIDENCE` at most, the paper's can gain 1, so β is smaller in the same
    proportion. With the paper's β the constraint would cost more than the reward can gain: at its PSNR of
    21.6 the norm over 3·512² values is 10^(−21.6/20)·√(3·512²) = 74, and 1e-3 · 74 = 0.074 > 0.065.
    """
    return _updated(draft_on_detector(), {"region": RegionConfig(beta=beta)})


def focus_n_fix_safety(*classifiers: RewardConfig, beta: float = 5e-4) -> TreatmentConfig:
    """Focus-N-Fix against a classifier's label, such as violence: M is the classifier's saliency."""
    lowered = tuple(one.model_copy(update={"goal": "lower"}) for one in classifiers)
    config = _direct("Focus-N-Fix, safety", lowered, 2, SamplingConfig(steps=50))
    return _updated(config, {"region": RegionConfig(beta=beta, map="saliency")})


def focus_n_fix_misalignment(*rewards: RewardConfig, beta: float = ARTIFACT_BETA) -> TreatmentConfig:
    """Focus-N-Fix for images that miss their prompt: the score of image and prompt is raised where the image
    lowers it (`scorers.disagreement`; the paper's map is predicted by a model that is not published). The β
    against artifacts, to be chosen anew for the range of another score."""
    config = _direct("Focus-N-Fix, misalignment", rewards, 2, SamplingConfig(steps=50))
    return _updated(config, {"region": RegionConfig(beta=beta, map="disagreement")})


def diffusion_nft(*rewards: RewardConfig, sampling: SamplingConfig | None = None) -> TreatmentConfig:
    """DiffusionNFT (Zheng et al. 2025): one reward per image, from scorers, which need no gradient. Raises
    `ConfigRefused` without one."""
    config = _direct("DiffusionNFT", rewards, 1, sampling or SamplingConfig(steps=10))
    return _forward_only(config, NftConfig(cells=False, reward="scorers"))


def diffusion_nft_on_detector(sampling: SamplingConfig | None = None) -> TreatmentConfig:
    """`diffusion_nft` with the detector as its reward, r from 1 − the mean confidence of an image."""
    return _forward_only(_settings(1, sampling or SamplingConfig(steps=10)), NftConfig(cells=False))


def diffusion_nft_cells(sampling: SamplingConfig | None = None) -> TreatmentConfig:
    """DiffusionNFT with a weight per latent cell, from the detector's map (ours)."""
    return _forward_only(_settings(1, sampling or SamplingConfig(steps=10)), NftConfig(cells=True))


def _forward_only(config: TreatmentConfig, nft: NftConfig) -> TreatmentConfig:
    """With the authors' optimizer and LoRA: lr 3e-4, weight decay 1e-4, rank 32 with alpha 64."""
    changes: dict[str, object] = {
        "pixel": NO_PIXELS,
        "nft": nft,
        "lora": LoraSettings(rank=32, alpha=64.0),
        "learning_rate": 3e-4,
        "weight_decay": 1e-4,
        "decay": "constant",
    }
    return _updated(config, changes)


def sequential(first: TreatmentConfig, second: TreatmentConfig) -> tuple[TreatmentConfig, TreatmentConfig]:
    """Sequential tuning: a run with M ≡ 1 for the whole image, then a regional run from that LoRA
    (Focus-N-Fix, discussion).

    The second run's untreated images are those of the first run's generator, so that its gains are kept.
    """
    region = (second.region or RegionConfig()).model_copy(update={"reference": "given"})
    return _updated(first, {"region": None}), _updated(second, {"region": region, "lora": first.lora})


def dreambooth(sampling: SamplingConfig | None = None) -> TreatmentConfig:
    """An instance LoRA by the standard recipe (Ruiz et al. 2023, with LoRA): 500 updates at 1e-4 on the
    diffusion loss alone, one image of the instance and one of its class in every batch (prior preservation,
    see `dreambooth.mix_with_class`). DiffDoctor draws with FLUX.1-dev in ten steps."""
    return TreatmentConfig(
        updates=500,
        batch=2,
        paired=True,
        sampling=sampling or SamplingConfig(steps=10),
        grad_steps=1,
        pixel=NO_PIXELS,
        offline=OfflineConfig(gamma=1.0),
        # The images are what is learned here, and no regularisation that could be left out.
        offline_distilled=True,
        lora=LoraSettings(rank=16, alpha=16.0),
        learning_rate=1e-4,
        weight_decay=1e-4,
    )


def _direct(
    method: str, rewards: tuple[RewardConfig, ...], last: int, sampling: SamplingConfig
) -> TreatmentConfig:
    """The common settings of the methods that raise a reward."""
    if not rewards:
        raise ConfigRefused(
            f"{method} raises the score of a reward, but none is given; name a scorer: CLIP, PickScore, "
            "HPSv2 or a label of an image classifier"
        )
    return _updated(_settings(last, sampling), {"pixel": NO_PIXELS, "rewards": rewards})


def _settings(last: int, sampling: SamplingConfig) -> TreatmentConfig:
    """Focus-N-Fix's optimizer and LoRA, on the detector's mean confidence."""
    return TreatmentConfig(
        grad_steps=last,
        sampling=sampling,
        offline=None,
        lora=LoraSettings(rank=64, alpha=64.0),
        learning_rate=2e-5,
        decay="sqrt",
    )


def _updated(config: TreatmentConfig, changes: dict[str, object]) -> TreatmentConfig:
    """A validated copy, unlike `model_copy`."""
    return TreatmentConfig(
        **{**{name: getattr(config, name) for name in type(config).model_fields}, **changes}
    )
