"""The curves of runs as a CSV file."""

from collections.abc import Mapping, Sequence

from fastapi import Response

from dataengine.csv_files import as_csv

Series = Mapping[str, tuple[Sequence[int], Sequence[float]]]
"""Steps and values by figure."""


def curves_csv(runs: Mapping[str, Series]) -> Response:
    """One row for every value: run, figure, step, value."""
    rows = (
        (name, figure, step, value)
        for name, series in runs.items()
        for figure, (steps, values) in series.items()
        for step, value in zip(steps, values, strict=True)
    )
    headers = {"Content-Disposition": 'attachment; filename="curves.csv"'}
    return Response(as_csv(("run", "figure", "step", "value"), rows), media_type="text/csv", headers=headers)
