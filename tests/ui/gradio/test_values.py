"""The mask editor's values without a browser: what is accepted, what is refused, how it is made."""

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from gradio.context import LocalContext
from gradio.exceptions import InvalidPathError
from PIL import Image as Picture

from dataengine.bounds import MAX_PIXELS
from ui.gradio import assets, values, wheel
from ui.gradio.mask_editor import ArtifactMaskEditor, MaskEditorData

SIZE = (48, 64)
IMAGE = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
LABELS = np.zeros(SIZE, dtype=np.uint8)
LABELS[4:9, 10:20], LABELS[30:, 50:] = 1, 2


@pytest.fixture(scope="module")
def editor() -> ArtifactMaskEditor:
    return ArtifactMaskEditor(classes=["shape", "content"], threshold=0.4)


def png(image: Picture.Image | np.ndarray, format_: str = "PNG", **how: Any) -> bytes:
    body = io.BytesIO()
    (image if isinstance(image, Picture.Image) else Picture.fromarray(image)).save(body, format_, **how)
    return body.getvalue()


def palette() -> Picture.Image:
    indices = Picture.fromarray(LABELS, "P")
    indices.putpalette([0, 0, 0, 200, 10, 10, 10, 200, 10])
    return indices


def round_trip(editor: ArtifactMaskEditor, value: Any) -> Any:
    sent = editor.postprocess(value)
    assert sent is not None
    json.dumps(sent.model_dump())
    return editor.preprocess(MaskEditorData(**sent.model_dump()))


@pytest.mark.parametrize("image", [IMAGE, Picture.fromarray(IMAGE), png(IMAGE), "path"], ids=type)
def test_an_image_in_every_form_comes_back_as_its_pixels(
    editor: ArtifactMaskEditor, image: Any, tmp_path: Path
) -> None:
    if isinstance(image, str):
        (tmp_path / "some name.png").write_bytes(png(IMAGE))
        image = tmp_path / "some name.png"
    got = round_trip(editor, image)
    assert (got["image"] == IMAGE).all() and got["image"].dtype == np.uint8
    assert not got["label_map"].any() and got["label_map"].shape == SIZE
    assert got["classes"] == ["shape", "content"] and got["threshold"] == 0.4 and got["confidence"] is None


@pytest.mark.parametrize(
    "labels", [LABELS, Picture.fromarray(LABELS), palette(), png(LABELS), png(palette())], ids=type
)
def test_a_label_map_in_every_form_comes_back(editor: ArtifactMaskEditor, labels: Any) -> None:
    assert (round_trip(editor, {"image": IMAGE, "label_map": labels})["label_map"] == LABELS).all()


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_confidence_comes_back_in_eight_bits(editor: ArtifactMaskEditor, kind: type) -> None:
    certain = np.linspace(0, 1, LABELS.size).reshape(SIZE).astype(kind)
    got = round_trip(editor, {"image": IMAGE, "confidence": certain, "threshold": 0.25})
    assert got["confidence"].dtype == np.float32 and got["threshold"] == 0.25
    assert np.abs(got["confidence"] - certain).max() <= 1 / 510 + 1e-3 * (kind is np.float16)


def test_what_the_browser_would_turn_or_mix_is_sent_upright_and_opaque(editor: ArtifactMaskEditor) -> None:
    exif = Picture.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned = round_trip(editor, png(IMAGE, "JPEG", exif=exif))
    assert turned["image"].shape == (64, 48, 3) and turned["label_map"].shape == (64, 48)
    clear = np.dstack([IMAGE, np.zeros(SIZE, np.uint8)])
    assert (round_trip(editor, clear)["image"] == 255).all()
    assert round_trip(editor, IMAGE[:, :, 0])["image"].shape == (*SIZE, 3)


nan = np.full(SIZE, 0.5)
nan[3, 4] = np.nan


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"image": IMAGE, "label_map": LABELS.T}, r"label map is \(64, 48\).*its image is \(48, 64\)"),
        ({"image": IMAGE, "label_map": LABELS.astype(int)}, "label map must be uint8"),
        ({"image": IMAGE, "label_map": LABELS > 0}, "label map must be uint8"),
        ({"image": IMAGE, "label_map": LABELS + 1}, "class 3, but the highest known class is 2"),
        ({"image": IMAGE, "label_map": png(LABELS, "JPEG")}, "lossy compression.*save it as PNG"),
        ({"image": IMAGE, "label_map": IMAGE}, "label map must be uint8 HW"),
        ({"image": IMAGE, "label_map": b"no image"}, "not a PNG"),
        ({"image": IMAGE, "confidence": nan}, "finite"),
        ({"image": IMAGE, "confidence": nan * 0 + 1.5}, "finite and in"),
        ({"image": IMAGE, "confidence": LABELS}, "float array.*uint8"),
        ({"image": IMAGE, "confidence": np.zeros(SIZE[::-1])}, r"confidence map is \(64, 48\)"),
        ({"image": IMAGE, "threshold": 1.2}, "threshold must be a number from 0 to 1"),
        ({"image": IMAGE, "threshold": float("nan")}, "threshold must be a number"),
        ({"image": IMAGE, "classes": []}, "1 to 127 names"),
        ({"image": IMAGE, "classes": "shape"}, "1 to 127 names"),
        ({"image": IMAGE, "classes": ["a", "a"]}, "distinct"),
        ({"image": IMAGE, "classes": [f"c{i}" for i in range(128)]}, "1 to 127 names"),
        (
            {"image": IMAGE, "classes": ["a"], "label_map": LABELS},
            "class 2, but the highest known class is 1",
        ),
        ({"label_map": LABELS}, "needs an image"),
        ({"image": IMAGE, "mask": LABELS}, "got mask"),
        (IMAGE.astype(float), "must be uint8"),
        (np.zeros((0, 5, 3), np.uint8), "empty"),
        (np.broadcast_to(np.uint8(0), (10_000, 10_000, 3)), f"10000×10000 pixels exceed .*{MAX_PIXELS}"),
        (Picture.new("1", (10_000, 10_000)), f"10000×10000 pixels exceed .*{MAX_PIXELS}"),
        (png(Picture.new("1", (10_000, 10_000))), "pixels exceed|more pixels than"),
        (b"", "empty"),
        (7, "got int"),
        ("/nowhere/at/all.png", "no file /nowhere/at/all.png"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(
    editor: ArtifactMaskEditor, value: Any, words: str
) -> None:
    with pytest.raises(gr.Error) as refused:
        editor.postprocess(value)
    assert re.search(words, refused.value.message), refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label_map": "no base64!"}, "base64"),
        ({"label_map": "eJwBAgD9/wAAAAIAAQ=="}, "label map"),
        ({"classes": ["only"]}, "class"),
        ({"classes": [""]}, "names"),
        ({"threshold": -1}, "threshold"),
    ],
)
def test_a_malformed_payload_is_refused(
    editor: ArtifactMaskEditor, change: dict[str, Any], words: str
) -> None:
    sent = editor.postprocess({"image": IMAGE, "label_map": LABELS})
    assert sent is not None
    with pytest.raises(gr.Error, match=words):
        editor.preprocess(MaskEditorData(**(sent.model_dump() | change)))


def test_pixels_are_decoded_when_a_handler_asks_for_them(
    editor: ArtifactMaskEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    decode = values.decode

    def counted(data: bytes) -> Any:
        decoded.append(len(data))
        return decode(data)

    monkeypatch.setattr(values, "decode", counted)
    value = round_trip(editor, {"image": IMAGE, "label_map": LABELS, "confidence": np.full(SIZE, 0.5)})
    assert (value["label_map"] == LABELS).all() and list(value) == list(values.PARTS) and not decoded
    assert (value["image"] == IMAGE).all() and value["image"] is value["image"] and len(decoded) == 1
    assert {**value}["confidence"].shape == SIZE and value.get("mask") is None
    with pytest.raises(KeyError):
        value["mask"]


@pytest.mark.parametrize("part", ["image", "confidence"])
def test_a_file_that_ends_early_is_refused_when_it_is_asked_for(
    editor: ArtifactMaskEditor, part: str, tmp_path: Path
) -> None:
    sent = editor.postprocess({"image": IMAGE, "confidence": np.full(SIZE, 0.5), "label_map": LABELS})
    assert sent is not None
    given = sent.model_dump()
    whole = Path(given[part]["path"]).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    value = editor.preprocess(MaskEditorData(**given | {part: {"path": str(tmp_path / "cut.png")}}))
    assert value is not None and (value["label_map"] == LABELS).all()
    for _ in range(2):
        with pytest.raises(gr.Error):
            value[part]


def test_an_upload_that_exif_turns_has_its_size_as_shown(editor: ArtifactMaskEditor, tmp_path: Path) -> None:
    exif = Picture.Exif()
    exif[0x0112] = 6
    (tmp_path / "own.jpg").write_bytes(png(IMAGE, "JPEG", exif=exif))
    value = editor.preprocess(MaskEditorData(image={"path": str(tmp_path / "own.jpg")}))
    assert value is not None and value["label_map"].shape == SIZE[::-1]
    assert value["image"].shape == (*SIZE[::-1], 3)


def test_nothing_is_nothing(editor: ArtifactMaskEditor) -> None:
    assert editor.postprocess(None) is None and editor.preprocess(None) is None
    assert editor.preprocess(MaskEditorData()) is None


def test_a_path_is_read_only_where_gradio_may_serve_it(
    editor: ArtifactMaskEditor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(IMAGE))
    app = SimpleNamespace(has_launched=True, is_running=True, allowed_paths=[], blocked_paths=[str(tmp_path)])
    token = LocalContext.blocks.set(app)  # type: ignore[arg-type]
    try:
        with pytest.raises(InvalidPathError, match="blocked_paths"):
            editor.postprocess(str(secret))
        with pytest.raises(InvalidPathError, match="blocked_paths"):
            editor.postprocess({"image": IMAGE, "label_map": str(secret)})
    finally:
        LocalContext.blocks.reset(token)


def test_file_names_do_not_reach_the_page(editor: ArtifactMaskEditor, tmp_path: Path) -> None:
    (tmp_path / "treated_side.jpg").write_bytes(png(IMAGE, "JPEG"))
    sent = editor.postprocess(str(tmp_path / "treated_side.jpg"))
    assert sent is not None and sent.image is not None
    assert "treated" not in json.dumps(sent.model_dump()) and sent.image.path.endswith("image.jpg")


def test_a_file_that_a_page_may_be_reading_is_not_written_again(editor: ArtifactMaskEditor) -> None:
    value = {"image": IMAGE, "confidence": np.full(SIZE, 0.5)}
    sent, again = editor.postprocess(value), editor.postprocess(value)
    assert sent and again and sent.image and again.image and sent.confidence and again.confidence
    assert (sent.image.path, sent.confidence.path) == (again.image.path, again.confidence.path)
    written = Path(sent.confidence.path).stat()
    editor.postprocess(value)
    later = Path(sent.confidence.path).stat()
    assert (later.st_ino, later.st_size) == (written.st_ino, written.st_size)
    with Path(sent.confidence.path).open("rb") as reading:
        start = reading.read(10)
        editor.postprocess(value)
        assert len(start + reading.read()) == written.st_size


def test_a_bad_setting_of_the_editor_is_refused() -> None:
    with pytest.raises(gr.Error, match="classes"):
        ArtifactMaskEditor(classes=[])
    with pytest.raises(gr.Error, match="threshold"):
        ArtifactMaskEditor(threshold=5)


# ---- the bundle ----


def test_the_bundle_is_made_of_the_pages_own_modules() -> None:
    body, names = assets.bundle(assets.ENTRY)
    page = {
        f"/static/annotate/{name}.js" for name in ("editor", "view", "label_map", "pointer_tools", "codec")
    }
    assert page < names.keys() and "/static/annotate/main.js" not in names
    assert "/static/annotate/outbox.js" not in names and "/static/api.js" not in names
    assert not re.search(r"^(import|export) ", body, re.MULTILINE)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("export default 3;", "export default"),
        ("export let x = 3;", "export let"),
        ('import x from "/static/dom.js";', "import x"),
        ('const x = () => import("/static/dom.js");', "import"),
        ("await 1;", "await"),
        ('import { a } from "/static/annotate/circle.js";\nexport const a = 1;', "imports itself"),
    ],
)
def test_a_form_that_cannot_be_bundled_is_refused(
    source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "annotate/static").mkdir(parents=True)
    (tmp_path / "annotate/static/circle.js").write_text(source + "\n")
    monkeypatch.setattr(assets, "UI", tmp_path)
    with pytest.raises(ValueError, match=words):
        assets.bundle("/static/annotate/circle.js")


@pytest.mark.parametrize("text", ["a {{b}}", "a ${b}", "a `b`", "a \\b"])
def test_what_gradio_would_evaluate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Gradio would evaluate"):
        assets._constant(text)


def test_several_editors_share_a_page_without_sharing_ids() -> None:
    assert " id=" not in assets.html() and 'data-id="stage"' in assets.html()
    assert "outbox" not in assets.html() and "Triage" not in assets.html()
    assert "--class-6: #0072b2;" in assets.head()


def test_the_wheels_sources_need_gradio_and_numpy_only(tmp_path: Path) -> None:
    wheel.write_sources(tmp_path)
    text = "\n".join(file.read_text() for file in (tmp_path / wheel.PACKAGE).glob("*.py"))
    assert not re.search(r"^\s*(from|import) (dataengine|ui|storage|pipelines)\b", text, re.MULTILINE)
    assert (tmp_path / wheel.PACKAGE / "static/javascript.txt").read_text() == assets.javascript()
    for file in (tmp_path / wheel.PACKAGE).glob("*.py"):
        compile(file.read_text(), file.name, "exec")
