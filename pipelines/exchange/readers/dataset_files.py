"""Which files of a Hugging Face dataset are read, by configuration and split, as `datasets` resolves them.

A dataset of the hub is downloaded first, those files alone, and an interrupted download is resumed. Nothing
of a dataset is run: only Parquet, Arrow, WebDataset and image files are read, neither scripts nor pickles;
and its card may name files of its own folder only.
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from dataengine.bounds import CONFIG_BYTES, check_bytes
from dataengine.errors import InputRefused, reason_of
from pipelines.exchange.metadata import MAX_SIDECAR_BYTES, displayable_name, read_plain, split_named

TABLES = (".parquet", ".arrow")
KINDS = {"parquet": "table", "arrow": "table", "webdataset": "webdataset", "imagefolder": "images"}
"""Modules of `datasets` that are used → what their files are."""
CARDS = ("README.md", ".huggingface.yaml")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
HUB = re.compile(r"hf:/+(?:datasets/)?(?P<name>[\w.-]+(?:/[\w.-]+)?)/?")
ALONE = "train"
"""How `datasets` names the split of files that state none."""


@dataclass(frozen=True, kw_only=True)
class DatasetFiles:
    """A dataset's files: what reads them, where they lie, which split they are of ("" if none is stated)."""

    kind: str
    """One of `KINDS`."""
    root: Path
    splits: dict[str, list[Path]]
    archives: list[tuple[str, Path]] = field(default_factory=list)
    """Zip archives of images, with their splits."""
    linked: bool = False
    """Whether the files are links, as the hub's cache holds them."""
    features: Any = None
    """The `datasets.Features` that the card states, if any."""
    builder: Any = None
    """What reads a folder of images."""
    passed_over: tuple[str, ...] = ()
    """Tables of the folder that `datasets` does not read, being of no split or another configuration."""

    def each(self) -> Iterator[tuple[str, Path]]:
        """Every file with its split."""
        return _pairs(self.splits)


def library() -> Any:
    """The package `datasets`, without its counting of downloads and its progress bars."""
    import datasets

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    return datasets


def find_dataset(path: Path, config: str = "") -> DatasetFiles:
    """The files of a folder, of one file, or of `hf://OWNER/NAME`, in one of its configurations.

    Raises `InputRefused` if there are none that can be read, or if several configurations leave a choice.
    """
    if path.as_posix().startswith("hf:/"):
        match = HUB.fullmatch(path.as_posix())
        if match is None:
            raise InputRefused(f"{path} is no dataset of the hub; these are written hf://OWNER/NAME")
        return _of_hub(match["name"], config)
    if not path.exists():
        raise InputRefused(f"{path} does not exist; datasets on the hub are written hf://OWNER/NAME")
    if path.is_file():
        kind = {".tar": "webdataset"}.get(path.suffix, "table")
        if kind == "table" and path.suffix not in TABLES:
            raise InputRefused(f"{path.name} is none of .parquet, .arrow, .tar; give the dataset's folder")
        return DatasetFiles(kind=kind, root=path.parent, splits={"": [path]})
    # `datasets` takes relative names from the dataset's folder, not from the current one.
    return _found(path.resolve(), config)


def _found(root: Path, config: str, linked: bool = False) -> DatasetFiles:
    """The files of a folder."""
    _check_card(root, linked)
    tables = sorted(
        file for suffix in TABLES for file in root.rglob(f"*{suffix}") if file.name not in METADATA
    )
    mixed = len({file.suffix for file in tables}) > 1
    builder = None if mixed and not config else _resolved(str(root), config)
    if tables and not config and KINDS.get(_module(builder)) != "table":
        # `datasets` reads files of one kind, and the most frequent. Images beside a table are named by it,
        # tables of both kinds are one dataset, and JSON lies beside what `save_to_disk` writes.
        return DatasetFiles(kind="table", root=root, splits=_by_folder(root, tables), linked=linked)
    return _described(
        root, builder, [*tables, *(file for name in METADATA for file in root.rglob(name))], linked
    )


def _described(root: Path, builder: Any, tables: list[Path], linked: bool) -> DatasetFiles:
    """The files of a builder, zip archives apart. `tables` are all that lie in the folder."""
    _check_kind(builder, str(root))
    given = builder.config.data_files
    splits = {str(name): _inside(root, list(files)) for name, files in given.items()}
    alone = list(splits) == [ALONE]
    archives = [("" if alone else split, file) for split, file in _pairs(splits) if _is_archive(file)]
    for name, files in splits.items():
        splits[name] = [file for file in files if not _is_archive(file)]
        given[name][:] = [str(file) for file in splits[name]]
        if not splits[name]:
            del given[name]
    used = {file for _, file in _pairs(splits)}
    return DatasetFiles(
        kind=KINDS[_module(builder)],
        root=root,
        splits={"": splits[ALONE]} if alone else splits,
        archives=archives,
        linked=linked,
        features=builder.info.features,
        builder=builder,
        passed_over=tuple(displayable_name(file.name) for file in tables if file not in used),
    )


def _by_folder(root: Path, files: list[Path]) -> dict[str, list[Path]]:
    """The files by split, where the first folder is named like one."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        first = file.relative_to(root).parts[0]
        splits.setdefault(first if split_named(first) and file.parent != root else "", []).append(file)
    return {"": files} if splits.keys() == {ALONE} else splits


def _check_kind(builder: Any, where: str) -> None:
    """Raise `InputRefused` for files of another kind, reading which might run code, or that are no images."""
    if _module(builder) not in KINDS or not builder.config.data_files:
        raise InputRefused(
            f"{where} is a dataset of {_module(builder)}; Parquet, Arrow, WebDataset tars and images are read"
        )


def _pairs(splits: dict[str, list[Path]]) -> Iterator[tuple[str, Path]]:
    return ((split, file) for split, files in splits.items() for file in files)


def _is_archive(file: Path) -> bool:
    return file.suffix.lower() == ".zip"


def _module(builder: Any) -> str:
    """The name of the packaged module that reads a dataset."""
    return str(type(builder).__module__.rpartition(".")[2])


def _resolved(where: str, config: str) -> Any:
    """The builder of a dataset's configuration. Raises `InputRefused`."""
    datasets = library()
    try:
        with tempfile.TemporaryDirectory() as cache:
            return datasets.load_dataset_builder(where, name=config or None, cache_dir=cache)
    except Exception as error:  # its exceptions share no base class
        if not config and "Config name is missing" in str(error):
            names = ", ".join(datasets.get_dataset_config_names(where))
            raise InputRefused(f"{where} has the configurations {names}; choose one with --config") from None
        raise InputRefused(f"{where} cannot be read as a dataset: {reason_of(error)}") from None


def _of_hub(repository: str, config: str) -> DatasetFiles:
    """The files of one configuration of a dataset of the hub, in the hub's cache on this machine."""
    from huggingface_hub import HfFileSystem, constants

    if Path(repository).exists():
        raise InputRefused(f"{repository} is a folder here as well; run this command in another folder")
    # The card is looked at before anything that it names is fetched.
    root = _download(repository, None, CARDS)
    if constants.HF_HUB_OFFLINE:
        return _found(root, config, linked=True)
    _check_card(root, linked=True)
    builder = _resolved(repository, config)
    _check_kind(builder, repository)
    given = builder.config.data_files
    hub = HfFileSystem()
    found: dict[Any, list[Any]] = {
        name: [hub.resolve_path(url) for url in urls] for name, urls in given.items()
    }
    first, *others = [one for files in found.values() for one in files]
    if any((one.repo_id, one.revision) != (first.repo_id, first.revision) for one in others):
        raise InputRefused(f"{repository} names files of other datasets, which are not read")
    root = _download(repository, first.revision, [_literal(one.path_in_repo) for one in (first, *others)])
    for name, files in found.items():
        given[name][:] = [str(root / one.path_in_repo) for one in files]
    return _described(root, builder, [], linked=True)


def _download(repository: str, revision: str | None, names: Sequence[str]) -> Path:
    """The folder of a dataset in the hub's cache, with the files of these names. Raises `InputRefused`."""
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=list(names))
        ).resolve()
    except Exception as error:  # its exceptions share no base class
        raise InputRefused(
            f"the hub dataset {repository!r} cannot be downloaded: {reason_of(error)}"
        ) from None


def _literal(name: str) -> str:
    """A pattern that fits this name alone."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _check_card(root: Path, linked: bool) -> None:
    """Raise `InputRefused` if a dataset's card names files outside of its folder."""
    import yaml
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    for name in CARDS:
        card = root / name
        if not card.is_file():
            continue
        text = read_plain(card.resolve() if linked else card, CONFIG_BYTES).decode("utf-8", "replace")
        if name == CARDS[0]:
            block = REGEX_YAML_BLOCK.search(text)
            text = block.group(2) if block else ""
        check_bytes(len(text), MAX_SIDECAR_BYTES, f"the header of {name}", "shorten it")
        try:
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
                raise InputRefused(f"the header of {name} has aliases; write their values out")
            said = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise InputRefused(f"the header of {name} is not valid YAML: {reason_of(error)}") from None
        for given in _texts(said.get("configs") if isinstance(said, dict) else None):
            if "://" in given or "::" in given or given.startswith("/") or ".." in PurePosixPath(given).parts:
                raise InputRefused(
                    f"{name} names {displayable_name(given)!r}, which leads out of the dataset"
                )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def _inside(root: Path, names: list[str]) -> list[Path]:
    """The files as paths. Raises `InputRefused` for one that does not lie below the resolved `root`."""
    files = [Path(name) for name in names]
    if not all(file.is_relative_to(root) for file in files):
        raise InputRefused(f"{root} names files that lie outside of it")
    return files
