"""Stage: evaluate champion and candidate on validation and benchmark."""

from pipelines.detectors.evaluation import evaluation_sets, measure_on_sets
from pipelines.runtime.context import Context, Result
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.open_detector import champion_version
from pipelines.runtime.round_data import recipe_of, results_of
from pipelines.stages.stage import Stage, change


def evaluate(context: Context, round_id: str) -> Result:
    """Measure both detectors and store the figures with them."""
    before, after = champion_version(context).id, results_of(context, round_id)["retrain"]["detector"]
    recipe = recipe_of(context, round_id)
    sets = evaluation_sets(context, recipe.publish, round_id)
    figures = {
        detector_id: measure_on_sets(context, detector_id, sets, recipe.evaluate.batch)
        for detector_id in dict.fromkeys((before, after))
    }
    fail_point("evaluate:measured")
    with context.workspace.catalog() as catalog:
        for detector_id, found in figures.items():
            catalog.detectors.record_metrics(detector_id, found)
        catalog.commit()
    return {"before": before, "after": after, "champion": figures[before], "candidate": figures[after]}


def _found(result: Result) -> str:
    champion, candidate = result["champion"], result["candidate"]
    changes = [
        f"{name.replace('_', ' ')} {change(figures['mse'], candidate.get(name, {}).get('mse'))}"
        for name, figures in champion.items()
    ]
    return f"Squared error on {', '.join(changes) or 'nothing'}"


STAGE = Stage(
    name="evaluate",
    title="evaluate champion and candidate",
    part="detector",
    section="evaluate",
    takes="champion and candidate, validation and benchmark",
    found=_found,
    work=evaluate,
)
