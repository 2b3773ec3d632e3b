"""Public sets of generated images with labels of artifacts: what they hold, their terms, how they come in.

Figures are the publishers' own. A licence is what the publisher states with the set, "unstated" where none
was found; that of the images may differ, since other people's generators made them.
"""

from dataclasses import dataclass

from dataengine.licences import UNSTATED


@dataclass(frozen=True, kw_only=True)
class PublicSet:
    """One published set."""

    name: str
    images: str
    """Number of images."""
    labels: str
    """What its labels mean."""
    licence: str
    """As its card or repository states it; "unstated" where neither does."""
    page: str
    """Where it is published."""
    get: str
    """How to get its files: a command, or a sentence."""
    format: str
    """One of the formats that are imported."""
    imports: str
    """The command that imports the files where `get` leaves them."""
    note: str = ""
    """What to know before it is used."""


PUBLIC_SETS = (
    PublicSet(
        name="SynthScars",
        images="12,236",
        labels="Polygons that experts drew around artifacts, each with a sentence that explains it.",
        licence="Apache-2.0",
        page="https://huggingface.co/datasets/khr0516/SynthScars",
        get="hf download khr0516/SynthScars --repo-type dataset --local-dir synthscars",
        format="synthscars",
        imports="clinic import synthscars --format synthscars",
        note="Its test split becomes a benchmark. Every polygon is of one class.",
    ),
    PublicSet(
        name="RichHF-18K",
        images="17,760",
        labels="Points that people clicked in implausible regions, as heat maps of circles of one radius; "
        "scores of the whole image.",
        licence=UNSTATED,
        page="https://github.com/google-research-datasets/richhf-18k",
        get="git clone https://github.com/google-research-datasets/richhf-18k (needs Git LFS); its images "
        "are those of Pick-a-Pic v1, which it names and does not contain",
        format="richhf",
        imports="clinic import richhf-18k --format richhf --images pickapic",
        note="Too coarse for a benchmark, and refused there.",
    ),
    PublicSet(
        name="PAL4VST",
        images="10,168",
        labels="Masks per pixel of what people found visibly wrong, over ten synthesis tasks.",
        licence=UNSTATED,
        page="https://github.com/owenzlz/PAL4VST",
        get="from the page's section Datasets, once its authors have linked the files there",
        format="pal4vst",
        imports="clinic import pal4vst --format pal4vst",
        note="GANs, inpainting and early diffusion of 2023 and before.",
    ),
    PublicSet(
        name="Human Artifact Dataset (HADM)",
        images="over 37,000",
        labels="Boxes around broken body parts, and around people with missing or extra ones.",
        licence=UNSTATED,
        page="https://github.com/wangkaihong/HADM",
        get="a zip that the page links to, human_artifact_dataset.zip",
        format="hadm",
        imports="clinic import human_artifact_dataset.zip --format hadm",
        note="Boxes become filled boxes, which also cover what is intact. Only people are labelled.",
    ),
    PublicSet(
        name="GenBlemish-27K",
        images="6,025",
        labels="Masks per pixel of 27,507 regions in twelve categories, each with a sentence.",
        licence=UNSTATED,
        page="https://huggingface.co/datasets/Epiphany10086/GenBlemish-27K",
        get="the import reads it from the hub",
        format="hf",
        imports="clinic import hf://Epiphany10086/GenBlemish-27K --format hf --dry-run",
        note="There is no reader of its own layout: the dry run says whether its columns can be read, and "
        "--column OURS=THEIRS names them.",
    ),
)
"""The known public sets."""
