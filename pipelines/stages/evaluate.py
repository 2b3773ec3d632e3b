"""Stage: evaluate champion and candidate on validation and benchmark."""

from pipelines.detectors.evaluation import compare_detectors, evaluation_sets, record_comparison
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
    champion, candidate, comparison = compare_detectors(context, before, after, sets, recipe.evaluate)
    fail_point("evaluate:measured")
    record_comparison(context, before, after, champion, candidate, comparison)
    return {
        "before": before,
        "after": after,
        "champion": champion,
        "candidate": candidate,
        "comparison": comparison,
    }


def _found(result: Result) -> str:
    champion, candidate = result["champion"], result["candidate"]
    changes = [
        f"{name.replace('_', ' ')} {change(figures['mse'], candidate.get(name, {}).get('mse'))}"
        f"{_rates(figures, candidate.get(name, {}))}"
        for name, figures in champion.items()
    ]
    return f"Squared error on {', '.join(changes) or 'nothing'}"


def _rates(before: Result, after: Result) -> str:
    """Misses and false alarms of a set, each detector at its own operating point, where measured."""
    found = [
        f"{title} {change(before['operating'][name], after.get('operating', {}).get(name))}"
        for name, title in (("miss", "misses"), ("false_alarm", "false alarms"))
        if before.get("operating", {}).get(name) is not None
    ]
    return f" ({', '.join(found)})" if found else ""


STAGE = Stage(
    name="evaluate",
    title="evaluate champion and candidate",
    part="detector",
    section="evaluate",
    takes="champion and candidate, validation and benchmark",
    found=_found,
    work=evaluate,
)
