"""Settings of work on selections of images, or on images of an instance (torch-free)."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from dataengine.config import Config, Location
from dataengine.curation.config import HardCategoryConfig, MiningConfig
from dataengine.injection.config import InjectionConfig, RedrawConfig
from dataengine.records import Source
from dataengine.treatment.config import SamplingConfig, TreatmentConfig
from dataengine.treatment.presets import dreambooth
from dataengine.treatment.repair.config import RepairConfig
from pipelines.config import CategorizeConfig, PseudoLabelConfig
from storage.queries.images import ImageFilter, Order, State
from storage.queries.lasso import MAX_TEXT, parse_lasso

ExportFormat = Literal["folder", "masks", "coco", "fiftyone", "label-studio", "yolo", "hf", "predictions"]

ImageId = Annotated[str, Field(min_length=1, max_length=128)]


class ImageQuery(Config):
    """A selection of images, in the words of the Curate page's address: `source=imported&category=hand`."""

    model_config = ConfigDict(serialize_by_alias=True)

    category: str | None = Field(default=None, max_length=200)
    """Only images of this category."""
    generator: str | None = Field(default=None, max_length=200)
    """Only images of this generator, by id."""
    detector: str | None = Field(default=None, max_length=200)
    """Only images that this detector has predicted, by id; null for any."""
    low: float = Field(default=0.0, ge=0, le=1)
    """Lowest maximum confidence by that detector, or by the champion."""
    high: float = Field(default=1.0, ge=0, le=1)
    """Highest maximum confidence by that detector, or by the champion."""
    label_class: int | None = Field(default=None, alias="class", ge=1, le=31)
    """Only images on which somebody marked this label class."""
    state: State | None = None
    """Only images in this state: unlabelled, waiting, unreviewed, approved, returned, refused."""
    split: Literal["train", "validation", "benchmark"] | None = None
    """Only images of this split."""
    source: Source | None = None
    """Only images of this origin; "injected" selects images with an injected artifact, which no other
    selection holds."""
    round: str | None = Field(default=None, max_length=200)
    """Only images generated in this round, by id."""
    tag: str | None = Field(default=None, min_length=1, max_length=64)
    """Only images with this tag."""
    search: str | None = Field(default=None, min_length=1, max_length=400)
    """Only images whose prompt has these words: `hand "five fingers" -glove paint*`."""
    lasso: str | None = Field(default=None, max_length=MAX_TEXT)
    """Only images inside a polygon on the map of Curate: the map's id, a colon, and the corners x,y,x,y,…"""
    ids: tuple[ImageId, ...] = Field(default=(), max_length=5_000)
    """Only these images, by id; with commas between in an address."""

    @field_validator("lasso")
    @classmethod
    def _check_lasso(cls, lasso: str | None) -> str | None:
        if lasso is not None:
            parse_lasso(lasso)
        return lasso

    @field_validator("ids", mode="before")
    @classmethod
    def _with_commas(cls, value: object) -> object:
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            return value
        return tuple(id for one in value for id in one.split(","))

    def filter(self, order: Order = "uncertainty") -> ImageFilter:
        """The filter as the catalog takes it."""
        return ImageFilter(
            ids=self.ids,
            category=self.category,
            lowest=self.low,
            highest=self.high,
            detector_id=self.detector,
            generator_id=self.generator,
            source=self.source,
            split=self.split,
            round_id=self.round,
            label_class=self.label_class,
            state=self.state,
            tag=self.tag,
            search=self.search,
            lasso=None if self.lasso is None else parse_lasso(self.lasso),
            order=order,
        )

    def in_words(self) -> str:
        """The selection as it is written; "" for all images."""
        given = self.model_dump(exclude_defaults=True)
        if self.ids:
            given["ids"] = ",".join(self.ids)
        return "&".join(f"{name}={value}" for name, value in given.items())


class ImageSelection(Config):
    """Images by id, or all that match a filter."""

    ids: tuple[ImageId, ...] = Field(default=(), max_length=5_000)
    images: ImageQuery | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "ImageSelection":
        if bool(self.ids) == (self.images is not None):
            raise ValueError("name images by their ids, or by a filter")
        return self


class SelectionRun(Config):
    """Work on a selection of images."""

    images: ImageQuery = ImageQuery()
    """The images; all of them by default."""


class DiagnosisRun(SelectionRun):
    """Prediction of the maps of images that a detector has not seen."""

    detector: str | None = None
    """Id of the detector; null for the champion."""
    batch: int = Field(default=32, ge=1)
    """Images per batch; all of one size."""


class CategorizationRun(SelectionRun):
    """Assignment of categories to images that have none."""

    categorize: CategorizeConfig = CategorizeConfig()
    """The model, its question and its batches."""


class MiningRun(SelectionRun):
    """Selection of images for annotators."""

    detector: str | None = None
    """Id of the detector whose predictions count; null for the champion."""
    mine: MiningConfig = MiningConfig()
    """How many images are selected, and by which weights."""
    statistic: HardCategoryConfig = HardCategoryConfig()
    """The statistical test that decides whether a category is hard."""


class PseudoLabelRun(SelectionRun):
    """Labels by a detector for images that people leave alone."""

    detector: str | None = None
    """Id of the detector whose maps become labels; null for the champion."""
    pseudo_label: PseudoLabelConfig = PseudoLabelConfig()
    """How many images are labelled."""


class InjectionRun(SelectionRun):
    """Artifacts injected into clean images, with exact label maps."""

    source: Literal["operations", "redraw"] = "operations"
    """Where artifacts come from: "operations" on pixels, or a generator that redraws a region."""
    generator: str | None = None
    """Id of the generator that redraws; null with "operations"."""
    copies: int = Field(default=1, ge=1, le=100)
    """Images made of each clean one, each with another artifact."""
    injection: InjectionConfig = InjectionConfig()
    """Kinds and sizes of the artifacts, and the random seed."""
    redraw: RedrawConfig = RedrawConfig()
    """How the generator redraws."""


class ExportRun(SelectionRun):
    """Images with their labels as files that other tools read."""

    format: ExportFormat = "folder"
    """Layout; "hf" takes a snapshot."""
    snapshot: str | None = Field(default=None, max_length=200)
    """Exactly the rows of this published training set, instead of a selection, by id."""
    only_labelled: bool = False
    """Only images with a label."""
    pictures: bool = True
    """Whether the image files are written too, besides tables and labels."""

    @model_validator(mode="after")
    def _hf_takes_a_snapshot(self) -> "ExportRun":
        if self.format == "hf" and self.snapshot is None:
            raise ValueError("only snapshots are exported as hf; choose one, or another format")
        if self.snapshot is not None and self.images.in_words():
            raise ValueError("a snapshot selects its own rows; leave the filter out")
        return self


class RepairRun(SelectionRun):
    """Repair of images: a generator redraws the artifacts that a detector finds."""

    ids: tuple[str, ...] = Field(default=(), max_length=200)
    """These images instead of a selection, by id."""
    detector: str | None = None
    """Id of the detector that finds artifacts; null for the champion."""
    generator: str | None = None
    """Id of the generator that redraws them."""
    chooser: str | None = None
    """Id of the detector that chooses among the candidates; null for another than `detector`, the teacher
    first."""
    prompt: str = Field(default="", max_length=20_000)
    """Prompt of images that bring none."""
    label_class: int | None = Field(default=None, ge=1, le=31)
    """Only artifacts on which people's labels mark this class."""
    repair: RepairConfig = RepairConfig()
    """Which artifacts are redrawn, and how."""
    sampling: SamplingConfig = SamplingConfig(steps=20, batch=4)
    """Sampling of the candidates."""


class InstanceRun(Config):
    """DreamBooth: an instance LoRA of a generator, outside a round."""

    generator: str
    """Id of the generator."""
    images: Annotated[str, Location(kind="folder")] = ""
    """Folder with images of the instance; empty where images of the catalog show it."""
    ids: tuple[str, ...] = Field(default=(), max_length=200)
    """Images of the catalog that show the instance, instead of a folder, by id."""
    instance_prompt: str = Field(min_length=1, max_length=1000)
    """Names the instance by a rare word: "a sks dog"."""
    class_prompt: str = Field(min_length=1, max_length=1000)
    """Says what it is: "a dog"."""
    class_images: int = Field(default=200, ge=0, le=10_000)
    """Images of the class that are drawn for the prior preservation; 0 leaves it out."""
    name: str = Field(default="", max_length=200)
    """Name of the generator with the LoRA; empty for the generator's name followed by the instance prompt."""
    encoder: Annotated[str, Location(kind="scorer")] = ""
    """Image encoder of transformers, such as DINO or CLIP, that measures the likeness to the instance before
    and after a treatment of these layers; empty leaves it out."""
    learning: TreatmentConfig = dreambooth()
    """Optimizer, LoRA and sampling."""

    @model_validator(mode="after")
    def _one_source(self) -> "InstanceRun":
        if bool(self.images) == bool(self.ids):
            raise ValueError(
                "name either a folder with images of the instance, or a selection of images of the catalog"
            )
        return self
