"""The label classes: list, add, rename, recolour, order, retire."""

from dataclasses import asdict, replace

from dataengine.errors import NotFound
from dataengine.masks import palette_color
from dataengine.records import AuditEvent, LabelClass
from storage.workspace import Workspace


def list_classes(workspace: Workspace) -> list[LabelClass]:
    """The classes in order of their places."""
    with workspace.catalog(read_only=True) as catalog:
        return catalog.classes.list()


def find_class(workspace: Workspace, value: int) -> LabelClass:
    """The class of a label map's value. Raises `NotFound`."""
    found = next((one for one in list_classes(workspace) if one.value == value), None)
    if found is None:
        raise NotFound(f"there is no label class {value}; `clinic classes` lists them")
    return found


def add_class(workspace: Workspace, name: str, color: str, actor: str) -> LabelClass:
    """Append a class. Raises `InputRefused` for a bad or taken name, a bad colour, or too many."""
    with workspace.catalog() as catalog:
        added = catalog.classes.add(name, color)
        details = {"value": added.value, "color": color}
        catalog.audit.add(AuditEvent(actor=actor, action="class.add", subject=added.name, details=details))
        catalog.commit()
    return added


def change_class(workspace: Workspace, seen: LabelClass, changed: LabelClass, actor: str) -> None:
    """Rename, recolour, move, retire or revive a class; label maps keep its value.

    Raises `Conflict` if somebody changed it since it was `seen`, `InputRefused`.
    """
    changed = replace(changed, name=changed.name.strip())
    before, after = asdict(seen), asdict(changed)
    names = [name for name in after if before[name] != after[name]]
    if not names:
        return
    with workspace.catalog() as catalog:
        catalog.classes.change(seen, changed)
        details = {"before": {name: before[name] for name in names}} | {name: after[name] for name in names}
        catalog.audit.add(AuditEvent(actor=actor, action="class.change", subject=seen.name, details=details))
        catalog.commit()


def color_of(one: LabelClass) -> str:
    """The class's colour as "#rrggbb": its own, or the palette's."""
    return one.color or palette_color(one.value)
