"""Published treatment methods as settings of `tuning.treat` (torch-free).

Differences from the papers are listed there; what a paper leaves open follows `TreatmentConfig`. Lengths,
batches and samplers depend on the generator: take a preset and change those with `model_copy(update=…)`.
"""

from dataengine.treatment.config import (
    LoraSettings,
    OfflineConfig,
    PixelConfig,
    RegionConfig,
    RewardConfig,
    SamplingConfig,
    TreatmentConfig,
)

NO_PIXELS = PixelConfig(weight=0.0)


def diffdoctor(pixels: PixelConfig | None = None, offline: bool = True) -> TreatmentConfig:
    """Pixel-aware treatment as published (DiffDoctor, Algorithm 1): t_tr = 1, rank 16, lr 1e-4, γ = 0.25."""
    return TreatmentConfig(
        grad_steps=1,
        pixel=pixels or PixelConfig(),
        offline=OfflineConfig() if offline else None,
        lora=LoraSettings(rank=16, alpha=16.0),
        learning_rate=1e-4,
    )


def draft(*rewards: RewardConfig, last: int = 2, sampling: SamplingConfig | None = None) -> TreatmentConfig:
    """DRaFT-K (Clark et al. 2024) with Focus-N-Fix's settings: gradient through the last K steps, lr
    2e-5/√i, rank 64. Without a reward the detector's mean confidence is lowered."""
    return TreatmentConfig(
        grad_steps=last,
        sampling=sampling or SamplingConfig(steps=50),
        pixel=NO_PIXELS if rewards else PixelConfig(),
        rewards=rewards,
        offline=None,
        lora=LoraSettings(rank=64, alpha=64.0),
        learning_rate=2e-5,
        decay="sqrt",
    )


def align_prop(*rewards: RewardConfig, sampling: SamplingConfig | None = None) -> TreatmentConfig:
    """AlignProp (Prabhudesai et al. 2023): the gradient flows through a random number of last steps."""
    plan = sampling or SamplingConfig(steps=50)
    changes = {"grad_steps": plan.steps, "truncation": "random", "checkpointing": True}
    return _updated(draft(*rewards, sampling=plan), changes)


def refl(*rewards: RewardConfig, among: int = 10, sampling: SamplingConfig | None = None) -> TreatmentConfig:
    """ReFL (Xu et al. 2023, Algorithm 1): the reward is that of the clean image predicted at one random step
    among the last ten of 40."""
    plan = sampling or SamplingConfig(steps=40)
    return _updated(draft(*rewards, sampling=plan), {"grad_steps": among, "truncation": "single"})


def focus_n_fix(*rewards: RewardConfig, beta: float = 1e-3) -> TreatmentConfig:
    """Focus-N-Fix (Eq. 2) against artifacts: J = r − β‖(1 − M) ⊙ (Î_0 − Î)‖_F, M from the detector."""
    return _updated(draft(*rewards), {"region": RegionConfig(beta=beta)})


def focus_n_fix_safety(classifier: RewardConfig, beta: float = 5e-4) -> TreatmentConfig:
    """Focus-N-Fix against a classifier's label, such as violence: M is the classifier's saliency."""
    lowered = classifier.model_copy(update={"goal": "lower"})
    return _updated(draft(lowered), {"region": RegionConfig(beta=beta, map="saliency")})


def sequential(first: TreatmentConfig, second: TreatmentConfig) -> tuple[TreatmentConfig, TreatmentConfig]:
    """Sequential tuning: a run with M ≡ 1 for the whole image, then a regional run from that LoRA
    (Focus-N-Fix, discussion).

    The second run's untreated images are those of the first run's generator, so that its gains are kept.
    """
    region = (second.region or RegionConfig()).model_copy(update={"reference": "given"})
    return _updated(first, {"region": None}), _updated(second, {"region": region, "lora": first.lora})


def dreambooth() -> TreatmentConfig:
    """An instance LoRA by the standard recipe (Ruiz et al. 2023, with LoRA): 500 updates at 1e-4 on the
    diffusion loss alone, prior preservation by images of the class (see `dreambooth.mix_with_class`)."""
    return TreatmentConfig(
        updates=500,
        batch=2,
        pixel=NO_PIXELS,
        offline=OfflineConfig(gamma=1.0),
        lora=LoraSettings(rank=16, alpha=16.0),
        learning_rate=1e-4,
        weight_decay=1e-4,
    )


def _updated(config: TreatmentConfig, changes: dict[str, object]) -> TreatmentConfig:
    """A validated copy, unlike `model_copy`."""
    return TreatmentConfig(
        **{**{name: getattr(config, name) for name in type(config).model_fields}, **changes}
    )
