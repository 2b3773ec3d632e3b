"""The Grafana dashboard and the alert rules name metrics, labels and syntax that there are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from storage.opening import create_workspace
from ui.config import ServerConfig
from ui.server import create_app

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "operation"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana.json").read_text())
RULES: dict[str, Any] = yaml.safe_load((FOLDER / "alerts.yml").read_text())
NAME = re.compile(r"\b((?:clinic|process)_[a-z0-9_]+)(?:\{([^}]*)\})?")
DURATION = re.compile(r"([0-9]+(ms|[smhdwy]))+")
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}
FUNCTIONS = {
    *(
        "sum",
        "max",
        "min",
        "avg",
        "topk",
        "count",
        "rate",
        "increase",
        "histogram_quantile",
        "time",
        "absent",
    ),
    *("by", "without", "and", "or", "unless", "on", "ignoring", "label_values"),
}
LABELS = {
    "clinic_http_requests_total": {"method", "route", "status"},
    "clinic_http_request_duration_seconds_bucket": {"route", "status", "le"},
    "clinic_jobs": {"state"},
    "clinic_rounds": {"state"},
    "clinic_jobs_ended_total": {"kind", "outcome"},
}


def panels() -> Iterator[dict[str, Any]]:
    for panel in DASHBOARD["panels"]:
        yield panel
        yield from panel.get("panels", [])


def expressions() -> Iterator[tuple[str, str]]:
    """Where each expression of PromQL stands, and the expression."""
    for panel in panels():
        for target in panel.get("targets", []):
            yield f"panel {panel['title']}", target["expr"]
    for group in RULES["groups"]:
        for rule in group["rules"]:
            yield f"rule {rule['alert']}", rule["expr"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Every name of a sample that a server may serve, by the types that it states."""
    workspace = create_workspace(tmp_path_factory.mktemp("w"))
    app = create_app(workspace, ServerConfig(desks=False))
    client = TestClient(app, base_url="http://127.0.0.1:7860", client=("127.0.0.1", 1))
    answer = client.get("/metrics")
    assert answer.status_code == 200
    names = set()
    for family in text_string_to_metric_families(answer.text):
        names |= {family.name + suffix for suffix in SUFFIXES.get(family.type, ("",))}
    workspace.close()
    return names


def test_every_metric_that_is_shown_or_watched_is_served(served: set[str]) -> None:
    used = {name for _, text in expressions() for name, _ in NAME.findall(text)}
    assert len(used) > 25 and used <= served, f"not served: {used - served}"
    parts = ("_sum", "_count", "_bucket")
    ours = {name for name in served if name.startswith("clinic_") and not name.endswith(parts)}
    assert ours - used <= {"clinic_blobs_files", "clinic_blobs_measured_timestamp_seconds"}


@pytest.mark.parametrize(("where", "text"), list(expressions()))
def test_every_expression_is_well_formed(where: str, text: str) -> None:
    """By hand, as there is no parser of PromQL among our libraries: brackets, functions, labels, ranges."""
    depth: list[str] = []
    for sign in re.sub(r'"[^"]*"', "", text):
        if sign in "([{":
            depth.append(sign)
        elif sign in ")]}":
            assert depth and depth.pop() + sign in ("()", "[]", "{}"), where
    assert not depth, where
    plain = re.sub(r'\{[^}]*\}|"[^"]*"|\[[^\]]*\]|\([a-z_]+(?:, [a-z_]+)*\)', "", text)
    words = set(re.findall(r"[a-z_]+", plain)) - {name for name, _ in NAME.findall(text)}
    assert words <= FUNCTIONS, f"{where}: {words - FUNCTIONS}"
    for length in re.findall(r"\[([^\]]*)\]", text):
        assert length == "$__rate_interval" or DURATION.fullmatch(length), where
    for name, selector in NAME.findall(text):
        named = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)) - {"job"}
        assert named <= LABELS.get(name, set()), f"{where}: {name} has no label {named}"


def test_the_dashboard_has_what_grafana_needs() -> None:
    kinds = {"title": str, "uid": str, "schemaVersion": int, "panels": list, "time": dict, "templating": dict}
    for name, kind in kinds.items():
        assert isinstance(DASHBOARD[name], kind), name
    assert DASHBOARD["schemaVersion"] >= 36 and len(DASHBOARD["uid"]) <= 40
    assert DASHBOARD.get("id") is None, "Grafana gives the id"
    variables = {one["name"] for one in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(DASHBOARD)))
    assert used == variables == {"datasource", "job"}
    ids, taken = [], set()
    for panel in panels():
        ids.append(panel["id"])
        assert panel["type"] in ("row", "stat", "timeseries") and panel["title"]
        place = panel["gridPos"]
        columns, rows = (range(place[at], place[at] + place[size]) for at, size in ("xw", "yh"))
        assert columns and rows and columns[-1] < 24
        cells = {(x, y) for x in columns for y in rows}
        assert not cells & taken, f"{panel['title']} covers another panel"
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["targets"] and panel["fieldConfig"]["defaults"]["unit"]
            references = [target["refId"] for target in panel["targets"]]
            assert len(set(references)) == len(references)
    assert len(set(ids)) == len(ids) > 20


def test_the_alert_rules_have_what_prometheus_needs() -> None:
    assert set(RULES) == {"groups"}
    names = []
    for group in RULES["groups"]:
        assert set(group) <= {"name", "rules", "interval"}
        for rule in group["rules"]:
            assert {"alert", "expr"} <= set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
            assert re.fullmatch(r"[A-Z]\w+", rule["alert"]) and DURATION.fullmatch(rule.get("for", "1m"))
            assert rule["labels"]["severity"] in ("info", "warning", "critical")
            assert all(text.endswith(".") for text in rule["annotations"].values())
            names.append(rule["alert"])
    assert len(set(names)) == len(names) >= 8
