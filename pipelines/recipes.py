"""Named recipes: complete settings of a round. Variants are made with `model_copy` and nothing else.

`clinic round --recipe NAME` starts a round with one; its settings are stored with the round.
"""

from collections.abc import Callable

from dataengine.curation.config import HardCategoryConfig, MiningConfig, VqaConfig
from dataengine.diagnosis.config import (
    AugmentationConfig,
    DetectorConfig,
    DetectorTrainingConfig,
    LossConfig,
    OperatingPointConfig,
    published_config,
)
from dataengine.diagnosis.encoders import IMAGENET
from dataengine.errors import NotFound
from dataengine.quality.config import GuardConfig
from dataengine.treatment.config import LoraSettings, OfflineConfig, SamplingConfig, TreatmentConfig
from dataengine.treatment.presets import diffdoctor
from pipelines.config import (
    CLINIC,
    CategorizeConfig,
    EvaluateConfig,
    GenerateConfig,
    JudgeConfig,
    PseudoLabelConfig,
    PublishConfig,
    RoundRecipe,
    TrainingRun,
    TreatConfig,
    WritePromptsConfig,
)

CLINIC_CATEGORIES = ("hand", "face", "sign", "animal", "mug", "house", "tree")


def demo(seed: int = 0) -> RoundRecipe:
    """One round on the embedded clinic in ten minutes on two cores."""
    sampling = SamplingConfig(steps=5, batch=16)
    training = DetectorTrainingConfig(
        name="candidate",
        steps=420,
        batch=16,
        lr=5e-4,
        head_factor=2.0,
        ema=0.98,
        warmup=0.05,
        device="cpu",
        workers=1,
        checkpoint_every=70,
        # Squared error alone: no other loss ranks images better here, see docs/benchmarks.md.
        mixture={"true": 0.4, "pseudo": 0.1, "real": 0.15, "previous": 0.35, "injected": 0.15},
        balance=0.7,
        # As measured by `make bench-loop`; alone, neither change was found to help (`make bench-detector`).
        augmentation=AugmentationConfig(shrink=0.5, strong=0.5),
        seed=seed,
    )
    return RoundRecipe(
        name="demo",
        writer=CLINIC,
        generate=GenerateConfig(
            categories=CLINIC_CATEGORIES,
            prompts_per_category=25,
            seeds_per_prompt=2,
            seed=seed,
            sampling=sampling,
            validation=0.25,
            shard=64,
        ),
        categorize=CategorizeConfig(model=CLINIC),
        write_prompts=WritePromptsConfig(
            statistic=HardCategoryConfig(minimum=12, seed=seed),
            hard_per_category=50,
            seeds_per_prompt=3,
            treat_per_category=30,
            treat_easy_per_category=4,
            judge_per_category=14,
            judge_easy_per_category=3,
            judge_seeds=4,
        ),
        mine=MiningConfig(budget=360, explore=0.3, seed=seed),
        train_teacher=training.model_copy(update={"name": "teacher", "steps": 200}),
        retrain=training,
        publish=PublishConfig(real_limit=600),
        treat=TreatConfig(
            tuning=TreatmentConfig(
                updates=100,
                batch=8,
                grad_steps=3,
                learning_rate=5e-4,
                lora=LoraSettings(targets="all"),
                sampling=sampling,
                offline=OfflineConfig(gamma=0.05),
                guard=GuardConfig(every=20, prompts=20, seeds=2),
                checkpoint_every=20,
                seed=seed,
            ),
            real_limit=240,
        ),
        judge=JudgeConfig(attributes=CLINIC),
    )


def cpu_smoke(seed: int = 0) -> RoundRecipe:
    """The smallest round with real models: runs every stage in under two minutes; models barely improve."""
    recipe = demo(seed)
    sampling = SamplingConfig(steps=2, batch=8)
    training = recipe.retrain.model_copy(update={"steps": 6, "batch": 4, "checkpoint_every": 3})
    tuning = recipe.treat.tuning.model_copy(
        update={
            "updates": 2,
            "batch": 2,
            "grad_steps": 1,
            "sampling": sampling,
            "guard": GuardConfig(every=1, prompts=2, seeds=2, change=(0.0, 1.0)),
            "checkpoint_every": 1,
        }
    )
    return recipe.model_copy(
        update={
            "name": "cpu-smoke",
            "generate": recipe.generate.model_copy(
                update={"prompts_per_category": 3, "seeds_per_prompt": 1, "sampling": sampling, "shard": 16}
            ),
            "write_prompts": WritePromptsConfig(
                statistic=HardCategoryConfig(minimum=2, floor=0.0, margin=0.0, level=0.4, resamples=200),
                hard_per_category=3,
                seeds_per_prompt=1,
                treat_per_category=2,
                treat_easy_per_category=1,
                judge_per_category=2,
                judge_easy_per_category=1,
                judge_seeds=2,
            ),
            "mine": MiningConfig(budget=12, explore=0.5, seed=seed),
            "train_teacher": training.model_copy(update={"name": "teacher"}),
            "retrain": training,
            "treat": TreatConfig(tuning=tuning, real_limit=12),
        }
    )


def fakes(seed: int = 0) -> RoundRecipe:
    """A round for tests with fake models, which takes seconds."""
    recipe = cpu_smoke(seed)
    return recipe.model_copy(
        update={
            "name": "fakes",
            "writer": "",
            "generate": recipe.generate.model_copy(update={"categories": ("hand", "face", "house", "tree")}),
        }
    )


def paper_detector(seed: int = 0) -> DetectorTrainingConfig:
    """The detector's training schedule for mit-b5 at 512².

    DiffDoctor publishes neither schedule nor augmentation: steps, rates and batch are those of PAL4VST's
    configurations; averaged weights, clipping, flips, jitter, mixture and balance are ours
    (`DetectorTrainingConfig`).
    """
    return DetectorTrainingConfig(
        name="candidate",
        detector=published_config("b5"),
        steps=40_000,
        batch=8,
        lr=6e-5,
        head_factor=10.0,
        weight_decay=0.01,
        warmup=0.0375,
        power=1.0,
        precision="bf16",
        augmentation=AugmentationConfig(shrink=0.5, strong=0.5),
        seed=seed,
    )


def photo_detector(
    encoder_weights: str = IMAGENET, size: int = 512, steps: int = 6_000, seed: int = 0
) -> DetectorTrainingConfig:
    """A detector of artifacts in photographs and photo-like images, from a pre-trained encoder.

    A small network, cross-entropy with Dice: with a decoder three times as wide and plain cross-entropy a
    trial's detector learned little in the same time. Half of the images are saved with loss, as on the web.
    """
    return DetectorTrainingConfig(
        name="photo",
        detector=DetectorConfig(
            name="photo",
            architecture="unet",
            encoder="timm-tf_efficientnet_lite0",
            options={"decoder_channels": (96, 64, 48, 32, 16)},
            # What the published weights of this encoder were trained with.
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            size=size,
            fit="tiles",
        ),
        encoder_weights=encoder_weights,
        encoder_factor=0.3 if encoder_weights else 1.0,
        steps=steps,
        batch=8,
        lr=1e-3,
        head_factor=1.0,
        ema=0.99,
        mixture={"true": 0.6, "pseudo": 0.1, "real": 0.4, "previous": 0.3, "injected": 0.15},
        loss=LossConfig(squared=0.0, focal=1.0, focal_gamma=0.0, dice=0.5),
        augmentation=AugmentationConfig(resave=0.5),
        seed=seed,
    )


def paper(seed: int = 0) -> RoundRecipe:
    """DiffDoctor at the paper's scale. First register FLUX.1-schnell and a mit-b5 detector, and import
    photographs.

    Values are the paper's unless a comment says otherwise; docs/published.md lists the differences.
    """
    training = paper_detector(seed)
    return RoundRecipe(
        name="paper",
        # The paper asks a VQA model for categories and lets Qwen write the prompts. Without a model on this
        # machine the prompt's category and the built-in grammar stand in: set categorize.model and writer.
        categorize=CategorizeConfig(model=""),
        writer="",
        # The paper gives neither the categories nor the size of its survey.
        generate=GenerateConfig(
            categories=VqaConfig().categories, prompts_per_category=100, seeds_per_prompt=4, seed=seed
        ),
        write_prompts=WritePromptsConfig(
            # The paper draws over a million images and gives no number per category. This makes 8,000 of each
            # hard category and generator; raise it for more pseudo-labels.
            hard_per_category=2000,
            seeds_per_prompt=4,
            # The paper's 3,000 training and 100 held-out prompts over three hard categories: human
            # activities, animals and words. 34 · 3 is the next number above 100.
            treat_per_category=1000,
            treat_easy_per_category=0,
            judge_per_category=34,
            judge_easy_per_category=0,
            judge_seeds=4,
        ),
        # Hard cases are images of high confidence; the paper gives no threshold.
        mine=MiningConfig(budget=2000, threshold=0.5, explore=0, uncertainty=0, diversity=0, seed=seed),
        # The paper trains on the true labels first and gives no length.
        train_teacher=training.model_copy(update={"name": "teacher", "steps": 8000}),
        pseudo_label=PseudoLabelConfig(limit=1_000_000),
        retrain=training,
        treat=TreatConfig(tuning=diffdoctor().model_copy(update={"seed": seed})),
    )


def photo(seed: int = 0) -> TrainingRun:
    """A detector of artifacts in photographs and photo-like images, on all labels and real photos there are.

    Its operating point flags at most one clean validation image in twenty: in real images most are clean.
    """
    return TrainingRun(
        start=IMAGENET,
        # The start names the encoder's weights.
        training=photo_detector(seed=seed).model_copy(update={"encoder_weights": ""}),
        evaluate=EvaluateConfig(
            operating_point=OperatingPointConfig(rule="recall_at", false_alarm=0.05),
        ),
    )


RECIPES: dict[str, Callable[[int], RoundRecipe]] = {
    "demo": demo,
    "cpu-smoke": cpu_smoke,
    "fakes": fakes,
    "paper": paper,
}
"""Recipes by name; each takes a random seed."""


def named(name: str, seed: int = 0) -> RoundRecipe:
    """The recipe of that name. Raises `NotFound` listing the known names."""
    if name in TRAININGS:
        raise NotFound(f"{name} is a recipe of a training and not of a round: clinic retrain --recipe {name}")
    if name not in RECIPES:
        raise NotFound(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name](seed)


TRAININGS: dict[str, Callable[[int], TrainingRun]] = {"photo": photo}
"""Recipes of a training outside rounds, which are not part of one."""


def training_named(name: str, seed: int = 0) -> TrainingRun:
    """The training by the recipe of that name, of a training or of a round.

    Raises `NotFound` listing the known names.
    """
    if name in TRAININGS:
        return TRAININGS[name](seed)
    if name not in RECIPES:
        raise NotFound(f"there is no recipe {name!r}; there are {', '.join([*TRAININGS, *RECIPES])}")
    recipe = RECIPES[name](seed)
    return TrainingRun(training=recipe.retrain, publish=recipe.publish, evaluate=recipe.evaluate)
