"""`ArtifactMaskEditor`: the canvas of the annotation page as a Gradio component."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

import gradio as gr
from gradio.components import Component
from gradio.data_classes import FileData, GradioModel
from gradio.events import Events
from gradio.processing_utils import move_files_to_cache, save_file_to_cache

from dataengine.errors import InputRefused
from ui.gradio import assets, values
from ui.gradio.values import MaskEditorValue


class MaskEditorData(GradioModel):
    """The editor's value as JSON. Only `image` is needed; `label_map` is a file of class indices, or base64
    of zlib over runs in row order (each a LEB128 length and one byte of class)."""

    image: FileData | None = None
    height: int | None = None
    width: int | None = None
    label_map: FileData | str | None = None
    classes: list[str] | None = None
    confidence: FileData | None = None
    threshold: float | None = None


@contextmanager
def refusals() -> Iterator[None]:
    """Shows a refused input as one sentence; the editor keeps what it has."""
    try:
        yield
    except InputRefused as error:
        raise gr.Error(escape(str(error), quote=False), print_exception=False) from error


class ArtifactMaskEditor(gr.HTML):
    """Draw a label map of classes over an image: brush, eraser, lasso, fill, magic wand, suggestions from a
    confidence map, undo, zoom, keys.

    A value is an image, or a dict of `image`, `label_map` (uint8 `HW`: 0 is nothing, i the i-th class),
    `classes` (names), `confidence` (float `HW` in [0, 1]) and `threshold`; all but `image` may be left out.
    Images and maps may be arrays, Pillow images, bytes of files, or paths of files that Gradio may serve.
    Event handlers receive a `MaskEditorValue` of NumPy arrays, or None while there is no image.
    """

    EVENTS: ClassVar = [Events.change, Events.input, Events.submit]
    data_model = MaskEditorData

    def __init__(
        self,
        value: Any = None,
        *,
        classes: Sequence[str] = ("artifact",),
        threshold: float = 0.5,
        height: int = 560,
        label: str | None = None,
        show_label: bool = False,
        every: gr.Timer | float | None = None,
        inputs: Component | Sequence[Component] | set[Component] | None = None,
        scale: int | None = None,
        min_width: int | None = None,
        visible: bool | Literal["hidden"] = True,
        elem_id: str | None = None,
        elem_classes: list[str] | str | None = None,
        render: bool = True,
        key: int | str | tuple[int | str, ...] | None = None,
        preserved_by_key: list[str] | str | None = "value",
    ) -> None:
        """
        Parameters:
            value: image or dict as described above, or a function that returns one when the page loads.
            classes: names of the classes of values that bring none.
            threshold: confidence in [0, 1] from which a region is suggested, for values that bring none.
            height: of the editor on the page, in pixels.
        """
        with refusals():
            self.classes = values.check_classes(classes)
            self.threshold = values.check_threshold(threshold)
        self.height = height
        super().__init__(
            value,
            html_template=f'<div style="--editor-height: {int(height)}px">{assets.html()}</div>',
            css_template=assets.css(),
            js_on_load=assets.javascript(),
            head=assets.head(),
            apply_default_css=False,
            label=label,
            show_label=show_label,
            every=every,
            inputs=inputs,
            scale=scale,
            min_width=min_width,
            visible=visible,
            elem_id=elem_id,
            elem_classes=elem_classes,
            render=render,
            key=key,
            preserved_by_key=preserved_by_key,
        )

    def preprocess(self, payload: MaskEditorData | None) -> MaskEditorValue | None:
        """The editor's value as NumPy arrays. Raises `gr.Error` for one that is malformed; an image or a
        confidence map that cannot be decoded raises it when it is first asked for."""
        if payload is None or payload.image is None:
            return None
        with refusals():
            classes = values.check_classes(self.classes if payload.classes is None else payload.classes)
            image, size = values.image_file(_bytes_of(payload.image))
            labels, confidence = payload.label_map, payload.confidence
            parts: dict[str, Any] = {
                "label_map": values.read_labels(
                    _bytes_of(labels) if isinstance(labels, FileData) else labels, size, len(classes)
                ),
                "classes": classes,
                "threshold": self._threshold(payload.threshold),
            }
        later: dict[str, Callable[[], Any]] = {"image": partial(values.read_image, image)}
        if confidence is None:
            parts["confidence"] = None
        else:
            later["confidence"] = partial(values.read_confidence, _bytes_of(confidence), size)
        return MaskEditorValue(parts, {name: partial(_asked, read) for name, read in later.items()})

    def postprocess(self, value: Any) -> MaskEditorData | None:
        """The value for the page. Raises `gr.Error` for one that cannot be used."""
        if value is None:
            return None
        with refusals():
            parts = values.parts_of(value)
            named = parts.get("classes")
            classes = values.check_classes(self.classes if named is None else named)
            image, size = values.image_file(self._loaded(parts["image"]))
            labels, confidence = parts.get("label_map"), parts.get("confidence")
            packed = None if labels is None else values.label_file(self._loaded(labels), size, len(classes))
            certain = None if confidence is None else values.confidence_file(self._loaded(confidence), size)
            return MaskEditorData(
                image=self._stored(image, "image"),
                height=size[0],
                width=size[1],
                label_map=values.base64_of(packed) if packed else None,
                classes=classes,
                confidence=self._stored(certain, "confidence") if certain else None,
                threshold=self._threshold(parts.get("threshold")),
            )

    def _threshold(self, threshold: float | None) -> float:
        return self.threshold if threshold is None else values.check_threshold(threshold)

    def _loaded(self, source: Any) -> Any:
        """The bytes of a path that Gradio may serve; anything else as it is. Raises Gradio's
        `InvalidPathError`."""
        if not isinstance(source, str | Path):
            return source
        moved = move_files_to_cache(FileData(path=str(source)).model_dump(), self, postprocess=True)
        file = Path(moved["path"])
        if not file.is_file():
            raise InputRefused(f"there is no file {source}")
        return file.read_bytes()

    def _stored(self, data: bytes, name: str) -> FileData:
        """The file in Gradio's cache, under a name that tells nothing of where it came from."""
        # Moved into place, since another page may be reading the same file.
        with TemporaryDirectory() as folder:
            file = Path(folder) / f"{name}.{values.suffix_of(data)}"
            file.write_bytes(data)
            return FileData(path=save_file_to_cache(file, self.GRADIO_CACHE), size=len(data))

    def api_info(self) -> dict[str, Any]:
        return Component.api_info(self)

    def example_payload(self) -> Any:
        return None

    def example_value(self) -> Any:
        return None


# Gradio writes a stub beside the module of every component; type checkers would read it instead of this file.
with suppress(OSError):
    Path(__file__).with_suffix(".pyi").unlink(missing_ok=True)


def _asked(read: Callable[[], Any]) -> Any:
    """A part that is decoded now. Raises `gr.Error`."""
    with refusals():
        return read()


def _bytes_of(file: FileData) -> bytes:
    """The bytes of a file that Gradio has received; it has checked where the file lies."""
    return Path(file.path).read_bytes()
