"""Read a COCO or YOLO export with one of its readers, and write what each image's label map is to it.

    python read_with.py PEER FOLDER OUT.npz CLASS…

It runs in `build/peers-venv`, for ultralytics beside our libraries, and imports nothing of ours; classes are
numbered from 1 in the given order.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

LabelMaps = dict[str, np.ndarray]
"""Label map (uint8 HW, 0 for none) by the image's file name."""


def supervision(folder: Path, classes: list[str]) -> LabelMaps:
    import supervision as sv

    dataset = sv.DetectionDataset.from_coco(
        str(folder / "images"), str(folder / "coco.json"), force_masks=True
    )
    found = {}
    for path, image, detections in dataset:
        label_map = np.zeros(image.shape[:2], np.uint8)
        for number in range(len(detections)):
            name = dataset.classes[detections.class_id[number]]
            label_map[detections.mask[number]] = classes.index(name) + 1
        found[Path(path).name] = label_map
    return found


def datumaro(folder: Path, classes: list[str]) -> LabelMaps:
    """Datumaro looks for annotations/instances_SUBSET.json only."""
    from datumaro.components.annotation import AnnotationType
    from datumaro.components.dataset import Dataset

    (folder / "annotations").mkdir()
    (folder / "coco.json").rename(folder / "annotations" / "instances_default.json")
    dataset = Dataset.import_from(str(folder), "coco_instances")
    names = [label.name for label in dataset.categories()[AnnotationType.label]]
    found = {}
    for item in dataset:
        label_map = np.zeros(item.media.data.shape[:2], np.uint8)
        # It makes a box beside each mask.
        for mask in (one for one in item.annotations if one.type == AnnotationType.mask):
            label_map[np.asarray(mask.image, bool)] = classes.index(names[mask.label]) + 1
        found[Path(item.media.path).name] = label_map
    return found


def fiftyone(folder: Path, classes: list[str]) -> LabelMaps:
    """The importer of `fiftyone.types.COCODetectionDataset`, without the database that keeps its samples."""
    os.environ["FIFTYONE_DISABLE_SERVICES"] = "1"
    from fiftyone.utils.coco import COCODetectionDatasetImporter

    importer = COCODetectionDatasetImporter(dataset_dir=str(folder), label_types="segmentations")
    found = {}
    with importer:
        for path, metadata, detections in importer:
            label_map = np.zeros((metadata.height, metadata.width), np.uint8)
            for one in detections.detections if detections else ():
                left, top = one.bounding_box[0] * metadata.width, one.bounding_box[1] * metadata.height
                x, y = round(left), round(top)
                height, width = one.mask.shape
                label_map[y : y + height, x : x + width][one.mask > 0] = classes.index(one.label) + 1
            found[Path(path).name] = label_map
    return found


def ultralytics(folder: Path, classes: list[str]) -> LabelMaps:
    """The data set of its segmentation trainer, and the masks that it makes for its loss."""
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import polygon2mask
    from ultralytics.utils import YAML

    described = YAML.load(folder / "data.yaml")
    data = {"names": described["names"], "nc": len(described["names"]), "channels": 3}
    found = {}
    for images in (folder / described[split] for split in ("train", "val", "test")):
        if not any(images.iterdir()):
            continue
        for label in YOLODataset(img_path=str(images), data=data, task="segment", augment=False).labels:
            height, width = label["shape"]
            label_map = np.zeros((height, width), np.uint8)
            for number, segment in zip(label["cls"].ravel(), label["segments"], strict=True):
                polygon = segment * np.array([width, height], np.float32)
                mask = polygon2mask((height, width), [polygon.ravel()])
                label_map[mask > 0] = classes.index(data["names"][int(number)]) + 1
            found[Path(label["im_file"]).name] = label_map
    return found


PEERS: dict[str, Callable[[Path, list[str]], LabelMaps]] = {
    "supervision": supervision,
    "datumaro": datumaro,
    "fiftyone": fiftyone,
    "ultralytics": ultralytics,
}

if __name__ == "__main__":
    peer, folder, out, *classes = sys.argv[1:]
    np.savez(out, **PEERS[peer](Path(folder), classes))
