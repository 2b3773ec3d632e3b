"""`clinic check` says what is missing, and fails only for what is configured and cannot work."""

import json
from pathlib import Path

import pytest

from pipelines.services.admin import extras
from pipelines.services.admin.extras import find_extras


def found(environment: dict[str, str]) -> dict[str, tuple[str, str]]:
    return {each.name: (each.state, each.text) for each in find_extras(environment)}


def test_nothing_is_configured_and_each_part_says_what_it_would_need(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "absent"))
    each = found({})
    assert list(each) == ["GPU", "hub", "PostgreSQL", "S3", "Label Studio"]
    assert each["Label Studio"] == (
        "unused",
        "push and pull need LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY in the environment",
    )
    assert "CLINIC_DATABASE_URL" in each["PostgreSQL"][1] and "CLINIC_BLOB_URL" in each["S3"][1]


def test_a_missing_library_breaks_only_what_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    environment = {"CLINIC_DATABASE_URL": "postgresql+psycopg://db/clinic", "HF_HUB_OFFLINE": "1"}
    each = found(environment)
    assert each["PostgreSQL"][0] == "broken" and "'artifact-clinic[postgres]'" in each["PostgreSQL"][1]
    assert each["S3"][0] == "unused" and "'artifact-clinic[s3]'" in each["S3"][1]
    assert each["hub"][0] == "unused" and "HF_HUB_OFFLINE" in each["hub"][1]


def test_what_is_configured_and_installed_is_ready() -> None:
    environment = {"CLINIC_BLOB_URL": "s3://bucket/w", "CLINIC_DATABASE_URL": "postgresql://db/clinic"}
    environment |= {"LABEL_STUDIO_URL": "http://labels", "LABEL_STUDIO_API_KEY": "k"}
    each = found(environment)
    assert [each[name][0] for name in ("PostgreSQL", "S3", "Label Studio")] == ["ready"] * 3
    assert "k" not in each["Label Studio"][1].split()


def test_a_gpu_that_torch_cannot_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(extras.Path, "exists", lambda path: str(path) == "/dev/nvidia0")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert found({})["GPU"][0] == "broken" and "without CUDA" in found({})["GPU"][1]
    monkeypatch.setattr(extras, "has_apple_gpu", lambda: True)
    assert found({})["GPU"][0] == "unused" and "--device mps" in found({})["GPU"][1]


def test_the_command_prints_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import app
    from pipelines.cli import check

    monkeypatch.setattr(check, "LIBRARIES", ())
    app.main(["--workspace", str(tmp_path / "w"), "check", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert {"GPU", "hub", "PostgreSQL", "S3", "Label Studio"} <= printed.keys()
