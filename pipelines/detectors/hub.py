"""Detectors of the Hugging Face hub: a detector folder, a SegFormer of transformers, or one file of weights.

Only configurations and weights are downloaded, once for each commit; nothing in a repository is executed.
"""

from pathlib import Path

from dataengine.diagnosis.point_files import POINT_FILE
from dataengine.errors import ModelRefused, reason_of

CONFIGURATIONS = ("detector.json", "config.json", "preprocessor_config.json", POINT_FILE)
SAFETENSORS, PICKLED = ("*.safetensors",), ("*.bin", "*.pt", "*.pth")
"""Weights that are preferred, and those that are read where there are none: their tensors alone."""


def download_detector(location: str) -> Path:
    """The local files of the detector "owner/name" or "owner/name@revision": a folder, or the only file of
    weights. Raises `ModelRefused` for what cannot be fetched or holds no detector."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = location.partition("@")

    def fetch(weights: tuple[str, ...]) -> Path:
        patterns = [*CONFIGURATIONS, *weights]
        return Path(snapshot_download(repository, allow_patterns=patterns, revision=revision or None))

    try:
        folder = fetch(SAFETENSORS)
        if not any(folder.glob("*.safetensors")):
            folder = fetch(PICKLED)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelRefused(
            f"{location} is neither a local file nor a repository that can be fetched: {reason_of(error)}"
        ) from error
    if any((folder / name).is_file() for name in CONFIGURATIONS[:2]):
        return folder
    weights = [path for pattern in (*SAFETENSORS, *PICKLED) for path in folder.glob(pattern)]
    if len(weights) == 1:
        return weights[0]
    raise ModelRefused(
        f"{location} holds neither detector.json nor config.json, and {len(weights)} files of weights; "
        "expected a detector folder, a SegFormer that transformers saved, or one file of weights"
    )
