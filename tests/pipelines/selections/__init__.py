"""Work on any selection of images."""

from dataengine.records.images import HARD, SURVEY
from pipelines.detectors.training_data import read_categories
from pipelines.runtime.context import Context
from pipelines.runtime.round_data import images_of, recipe_of
from pipelines.selections.mine import Mining


def mining_of(context: Context, round_id: str, detector: str = "first") -> Mining:
    """How the round's recipe looks at candidates."""
    recipe = recipe_of(context, round_id)
    return Mining(
        detector=detector,
        config=recipe.mine,
        categories=read_categories(context.workspace, round_id, images_of(context, round_id, SURVEY, HARD)),
        upright=recipe.retrain.augmentation.upright,
        batch=recipe.diagnose.batch,
    )
