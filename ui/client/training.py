"""Training and treating: runs, detectors, generators, treatments, training sets."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ui.client.jobs import POLL_SECONDS, Jobs, waited, watched
from ui.client.records import (
    Comparison,
    Curve,
    Detector,
    Generator,
    Job,
    Run,
    Snapshot,
    Treatment,
    read,
)
from ui.client.transport import ApiError, Transport, an_id


class Runs:
    """Runs of one kind, under the path of their desk."""

    path = ""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(self) -> Sequence[Run]:
        """The newest runs, the newest first."""
        return [read(Run, one) for one in self._http.get(f"{self.path}/runs")["runs"]]

    def get(self, run: str) -> Run:
        """How a run stands."""
        return read(Run, self._http.get(f"{self.path}/runs/{an_id(run)}"))

    def watch(self, run: str, poll: float = POLL_SECONDS) -> Iterator[Run]:
        """The run each time that it has changed, until it has ended or is paused."""
        return watched(lambda: self.get(run), poll)

    def wait(
        self,
        run: str,
        *,
        report: Callable[[Run], Any] | None = None,
        timeout: float | None = None,
        poll: float = POLL_SECONDS,
    ) -> Run:
        """The run once it has succeeded; `report` gets every change. Raises `ApiError` where it fails, is
        cancelled or paused, and after `timeout` seconds."""
        return waited(lambda: self.get(run), f"run {run}", report, timeout, poll)

    def curve(self, run: str, points: int = 800) -> dict[str, Curve]:
        """Steps (int64) and values (float64) of every figure, at most about `points` of each."""
        found = self._http.get(f"{self.path}/runs/{an_id(run)}/curves", {"points": points})
        return {
            name: (np.asarray(steps, np.int64), np.asarray(values, np.float64))
            for name, (steps, values) in found.items()
        }

    def log(self, run: str) -> str:
        """The end of the run's log."""
        return str(self._http.get(f"{self.path}/runs/{an_id(run)}/log")["log"])

    def cancel(self, run: str) -> str:
        """Cancel a run; its state."""
        return str(self._http.post(f"{self.path}/runs/{an_id(run)}/cancel")["state"])

    def pause(self, run: str) -> str:
        """Pause a run, which frees its device; its state."""
        return str(self._http.post(f"{self.path}/runs/{an_id(run)}/pause")["state"])

    def resume(self, run: str) -> str:
        """Resume a stopped run from its last checkpoint; its state."""
        return str(self._http.post(f"{self.path}/runs/{an_id(run)}/resume")["state"])

    def _start(self, body: Mapping[str, Any]) -> Run:
        return self.get(self._http.post(f"{self.path}/start", body)["run"])


class Training(Runs):
    """Trainings of detectors."""

    path = "/train"

    def presets(self) -> Sequence[str]:
        """The names of complete settings, the likeliest first."""
        return list(self._http.get("/train/form")["presets"])

    def start(
        self,
        preset: str = "",
        *,
        start: str | None = None,
        name: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> Run:
        """Queue a training by a preset, the likeliest by default.

        `start` is the id of a detector to go on from, "random", or encoder weights; `name` that of the new
        detector; `settings` change the preset's, section by section: `{"training": {"steps": 100}}`.
        """
        changed = dict(settings or {})
        if start is not None:
            changed["start"] = start
        if name:
            changed["training"] = {**changed.get("training", {}), "name": name}
        return self._start({"preset": preset or self.presets()[0], "settings": changed})


class Treating(Runs):
    """Treatments of generators."""

    path = "/treat"

    def presets(self) -> Sequence[str]:
        """The names of complete settings."""
        return list(self._http.get("/treat/form")["presets"])

    def start(
        self,
        generator: str,
        preset: str = "",
        *,
        detector: str | None = None,
        name: str = "",
        prompts: Sequence[str] = (),
        categories: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> Run:
        """Queue a treatment of a generator, by its id, against a detector (default: the champion).

        Prompts are those given; or written for `categories`; or by default for the newest round's hard
        categories. `settings` change the preset's, section by section: `{"tuning": {"updates": 50}}`.
        """
        changed = {**(settings or {}), "generator": generator}
        if detector is not None:
            changed["detector"] = detector
        if name:
            changed["name"] = name
        if prompts and categories:
            raise ApiError("name either prompts or categories")
        for choice in ("prompts", "judge") if prompts or categories else ():
            source = (
                {"source": "given", "texts": [*prompts]}
                if prompts
                else {"source": "category", "categories": [*categories]}
            )
            changed[choice] = source | dict(changed.get(choice, {}))
        return self._start({"preset": preset or self.presets()[0], "settings": changed})


class Detectors:
    """Detectors: the champion and the others."""

    def __init__(self, transport: Transport, jobs: Jobs) -> None:
        self._http, self._jobs = transport, jobs

    def list(self) -> Sequence[Detector]:
        """Every detector that is offered, the newest first."""
        return [read(Detector, one) for one in self._http.get("/train/detectors")["detectors"]]

    def champion(self) -> Detector | None:
        """The detector whose maps count, None before the first."""
        found = self._http.get("/train/detectors")
        best = (one for one in found["detectors"] if one["id"] == found["champion"])
        return next((read(Detector, one) for one in best), None)

    def compare(self, detector: str) -> Comparison:
        """A detector beside the champion: the verdict on every figure, and what speaks against promoting."""
        return read(Comparison, self._http.get(f"/train/detectors/{an_id(detector)}"))

    def measure(self, detector: str) -> Job:
        """Have a worker measure a detector and the champion on the same images."""
        return self._jobs.get(self._http.post(f"/train/detectors/{an_id(detector)}/measure")["job"])

    def promote(self, detector: str, reason: str = "") -> str:
        """Make a detector the champion; its id. `reason` is needed where figures speak against it, and goes
        into the audit trail."""
        seen = self._http.get("/train/detectors")["champion"]
        body = {"detector": detector, "reason": reason, "champion": seen}
        return str(self._http.post("/train/promote", body)["champion"])

    def register(self, location: str, name: str = "", licence: str = "") -> Job:
        """Have a worker register a detector that is shipped or that an admin allowed."""
        return register(self._http, self._jobs, "detector", location, name, licence)


class Generators:
    """Generators, and the treatments that made some of them."""

    def __init__(self, transport: Transport, jobs: Jobs) -> None:
        self._http, self._jobs = transport, jobs

    def list(self) -> Sequence[Generator]:
        """Every generator that is offered, the newest first."""
        return [read(Generator, one) for one in self._http.get("/treat/generators")["generators"]]

    def register(self, location: str, name: str = "", licence: str = "") -> Job:
        """Have a worker register a generator that is shipped or that an admin allowed."""
        return register(self._http, self._jobs, "generator", location, name, licence)

    def treatments(self) -> Sequence[str]:
        """The ids of the newest treatments, the newest first."""
        return [one["id"] for one in self._http.get("/treat/overview")["treatments"]]

    def treatment(self, treatment: str) -> Treatment:
        """A treatment: how often held-out images are flawed before and after."""
        return read(Treatment, self._http.get(f"/treat/treatments/{an_id(treatment)}"))

    def save_lora(self, treatment: str, path: str | Path) -> Path:
        """Stream the LoRA of a treatment, with its README, to a .zip."""
        return self._http.download(f"/treat/treatments/{an_id(treatment)}/lora.zip", path)


class Snapshots:
    """Published training sets, which never change."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(self) -> Sequence[Snapshot]:
        """Every training set, the newest first."""
        return [read(Snapshot, one) for one in self._http.get("/train/snapshots")["snapshots"]]

    def get(self, snapshot: str) -> Snapshot:
        """One training set."""
        return read(Snapshot, self._http.get(f"/train/snapshots/{an_id(snapshot)}"))


def register(http: Transport, jobs: Jobs, kind: str, location: str, name: str, licence: str) -> Job:
    """Have a worker register a model."""
    body = {"kind": kind, "location": location, "name": name, "licence": licence}
    return jobs.get(http.post("/models/register", body)["job"])
