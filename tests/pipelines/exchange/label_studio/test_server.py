"""Which classes a project offers: the ones that are not retired, and those that its annotations use."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

from dataengine.records import LabelClass
from pipelines.exchange.label_studio.server import Server
from pipelines.exchange.label_studio.tasks import FROM_NAME, TO_NAME

HANDS = LabelClass(value=1, name="hands", color="#123456", place=2)
TEXT = LabelClass(value=2, name="text", place=1)
OLD = LabelClass(value=3, name="old", place=3, retired=True)
CLASSES = (TEXT, HANDS, OLD)


@dataclass
class Projects:
    """The server's project routes, for the one project `p` with these labels, or none."""

    labels: tuple[str, ...] = ()
    configs: list[str] = field(default_factory=list)

    def get(self, number: int) -> Any:
        control = {"type": "BrushLabels", "to_name": [TO_NAME], "labels": list(self.labels)}
        return SimpleNamespace(id=number, title="p", parsed_label_config={FROM_NAME: control})

    def create(self, *, label_config: str, **_: Any) -> Any:
        self.configs.append(label_config)

    def update(self, number: int, *, label_config: str) -> None:
        self.configs.append(label_config)


@dataclass(frozen=True)
class Answering(Server):
    """A server that answers without a network."""

    summary: dict[str, Any] = field(default_factory=dict)

    def get(self, path: str, **params: Any) -> Any:
        projects: Any = self.client.projects
        if path == "projects":
            return {"results": [{"id": 7, "title": "p"}] if projects.labels else []}
        assert path == "projects/7/summary/"
        return self.summary


def offered(projects: Projects, **summary: Any) -> list[list[tuple[str | None, str | None]]]:
    """Names and colours of the interfaces that are sent."""
    server = Answering("http://x", SimpleNamespace(projects=projects), summary)  # type: ignore[arg-type]
    server.ready_project("p title" if not projects.labels else "p", CLASSES)
    configs = [ElementTree.fromstring(config).iter("Label") for config in projects.configs]
    return [[(one.get("value"), one.get("background")) for one in labels] for labels in configs]


LIVE = [("text", "#56b4e9"), ("hands", "#123456")]


def test_a_new_project_offers_the_classes_that_are_not_retired() -> None:
    assert offered(Projects()) == [LIVE]


def test_a_retired_class_leaves_the_project() -> None:
    assert offered(Projects(("hands", "text", "old")), created_labels={FROM_NAME: {"hands": 3}}) == [LIVE]
    assert offered(Projects(("hands", "text")), created_labels={}) == []


def test_a_retired_class_that_annotations_use_stays() -> None:
    """Label Studio refuses an interface without a label of its annotations or drafts."""
    for counts in ("created_labels", "created_labels_drafts"):
        assert offered(Projects(("hands", "old")), **{counts: {FROM_NAME: {"old": 1}}}) == [
            [*LIVE, ("old", "#f0e442")]
        ]
