"""What to say where a detector predicts images of another kind than it was made for."""

from dataengine.records import CLINIC, DetectorVersion


def foreign_note(version: DetectorVersion, foreign: int, total: int) -> str:
    """What a person must know of this detector's maps when `foreign` of `total` images are of another kind;
    "" for nothing."""
    if version.domain != CLINIC or not foreign:
        return ""
    these = "this image comes" if total == 1 else f"{foreign} of {total} images come"
    return (
        f"{version.name} was trained on the embedded clinic's small drawings, and {these} from elsewhere, "
        "where its maps say little. Register a detector for such images, or train one on labels of them."
    )
