"""The parts that a pipeline class of diffusers is made of: which classes each may have, and which are loaded.

diffusers' signatures say it: nothing else of a folder is loaded, and only classes that diffusers and
transformers themselves define.
"""

import inspect
from pathlib import Path
from typing import Any

from dataengine.bounds import read_config
from dataengine.errors import ModelRefused
from dataengine.treatment.config import UsualSampling
from dataengine.treatment.families.catalog import PIPELINES, FamilyFacts
from dataengine.treatment.families.rows import ROWS, row_of

LIBRARIES = ("diffusers", "transformers")
NEEDED = ("text_encoder", "tokenizer")
"""Starts of the names of parts that are loaded though a class calls them optional."""
OTHER_INPUTS = (
    "mask_image",
    "control_image",
    "num_frames",
    "video_length",
    "video",
    "audio",
    "audio_length_in_s",
    "audio_end_in_s",
)
"""Arguments of calls that do something else than text to image."""
OTHER_KINDS = (
    "Control",
    "Inpaint",
    "Img2Img",
    "Image2Image",
    "Pix2Pix",
    "Depth",
    "Adapter",
    "Edit",
    "Kontext",
    "Video",
    "Upscale",
    "Fill",
    "KV",
    "Layered",
    "SuperResolution",
)
"""Parts of the names of classes that need an image beside the prompt."""
IMPLEMENTATION = "stock:StockFamily"


def stock_class(kind: str) -> Any:
    """The text-to-image pipeline class of that name. Raises `ModelRefused` for any other name."""
    import diffusers

    found = getattr(diffusers, kind, None) if kind.isidentifier() else None
    if not inspect.isclass(found) or not issubclass(found, diffusers.DiffusionPipeline):
        raise ModelRefused(
            f"{kind!r} is no pipeline class of the installed diffusers {diffusers.__version__}; expected "
            f"one of {', '.join(sorted({*PIPELINES, *ROWS}))}, or another text-to-image class of it. A class "
            "that is newer needs a newer diffusers, and one that was renamed its new name in model_index.json"
        )
    if not found.__module__.startswith("diffusers.pipelines."):
        raise ModelRefused(f"{kind} is not one of diffusers' own pipelines; only those are loaded")
    if found.__module__.startswith("diffusers.pipelines.deprecated"):
        raise ModelRefused(f"{kind} is deprecated in diffusers; convert the model to another class")
    if "PAG" in kind:
        raise ModelRefused(
            f"{kind} exchanges parts of its network during its call; name {kind.replace('PAG', '')} in "
            "model_index.json, which has the same weights"
        )
    takes = inspect.signature(found.__call__).parameters
    if "prompt" not in takes:
        raise ModelRefused(f"{kind} takes no prompt; expected a text-to-image pipeline")
    more = [name for name in OTHER_INPUTS if name in takes]
    if "image" in takes and "image" not in row_of(kind).arguments:
        needed = takes["image"].default is inspect.Parameter.empty
        more += ["image"] if needed or any(part in kind for part in OTHER_KINDS) else []
    if more:
        raise ModelRefused(
            f"{kind} needs more than text (it takes {more[0]}); control, inpainting, editing, video and "
            "audio are not supported; expected a text-to-image pipeline"
        )
    return found


def stock_facts(kind: str, index: dict[str, Any], where: Any) -> FamilyFacts:
    """The parts of a folder, from its index, of any text-to-image class; `where` names the index.

    Raises `ModelRefused` for a class of another kind, a part that is missing or of a class that it must not
    have.
    """
    found = stock_class(kind)
    components: dict[str, frozenset[tuple[str, str]]] = {}
    networks: list[str] = []
    optional = {name for name in found._optional_components if not name.startswith(NEEDED)}
    for name, allowed in found._get_signature_types().items():
        types = [each for each in allowed if inspect.isclass(each) and not _is_value(each)]
        if name in optional or (not types and name != "scheduler"):
            continue
        part: Any = index.get(name)
        of = _class_of(part, name, allowed, where)
        components[name] = frozenset([(part[0], part[1])])
        if _is_network(of):
            networks.append(name)
    if lacking := {"scheduler", "vae"} - components.keys():
        raise ModelRefused(f"{kind} has no {min(lacking)}; expected latent diffusion with a VAE")
    return FamilyFacts(
        implementation=IMPLEMENTATION,
        pipelines=(kind,),
        components=components,
        takes_lora=True,
        reads_prompts=True,
        refinable=False,
        with_weights=tuple(networks),
    )


def left_out(kind: str) -> list[str]:
    """The optional parts of a class that are not loaded: safety checkers, prompt enhancers, image
    encoders."""
    return [name for name in stock_class(kind)._optional_components if not name.startswith(NEEDED)]


def usual_sampling(kind: str, distilled: bool) -> UsualSampling:
    """Steps and guidance that pipelines of a class are usually drawn with: their row's, else their call's
    defaults."""
    if kind in PIPELINES and not PIPELINES[kind].reads_prompts:
        return UsualSampling()
    row, takes = row_of(kind), inspect.signature(stock_class(kind).__call__).parameters
    if row.few and distilled:
        return UsualSampling(steps=row.few[0], guidance=row.few[1])
    own = takes.get(row.guidance_argument)
    guidance = row.guidance if row.guidance is not None or own is None else own.default
    return UsualSampling(steps=row.steps or takes["num_inference_steps"].default, guidance=guidance)


def is_distilled(kind: str, folder: Path) -> bool:
    """Whether a pipeline's settings say that its weights are distilled to few steps: `is_distilled` in its
    index, and of FLUX.1 schnell the missing guidance input. Other distilled weights are told apart by no
    file."""
    if kind == "FluxPipeline" and "is_distilled" not in read_config(folder / "model_index.json"):
        return not read_config(folder / "transformer" / "config.json").get("guidance_embeds", False)
    return bool(read_config(folder / "model_index.json").get("is_distilled", False))


def _class_of(part: Any, name: str, allowed: tuple[Any, ...], where: Any) -> Any:
    """The class that an index names for a part, [library, class]; raises `ModelRefused` for a wrong one."""
    import diffusers
    import transformers

    libraries = {"diffusers": diffusers, "transformers": transformers}
    expected = " or ".join(each.__name__ for each in allowed if hasattr(each, "__name__")).replace(
        "KarrasDiffusionSchedulers", "a scheduler"
    )
    known = isinstance(part, list) and len(part) == 2 and all(isinstance(each, str) for each in part)
    if not known or part[0] not in libraries or not part[1].isidentifier():
        raise ModelRefused(
            f"{where} names {part} as {name}; expected {expected}, of diffusers or transformers"
        )
    of = getattr(libraries[part[0]], part[1], None)
    if not inspect.isclass(of):
        raise ModelRefused(
            f"{where} names {part[1]} as {name}, which the installed {part[0]} does not have; "
            f"expected {expected}"
        )
    if not _fits(of, name, allowed):
        raise ModelRefused(f"{where} names {part} as {name}; expected {expected}")
    return of


def _fits(of: Any, name: str, allowed: tuple[Any, ...]) -> bool:
    """Whether a part may have that class. Schedulers and tokenizers of any class are data, not code; an
    abstract class or an automatic one stands for all that transformers has."""
    from diffusers import SchedulerMixin
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    if name == "scheduler":
        return issubclass(of, SchedulerMixin)
    if name.startswith("tokenizer") or name == "processor":
        return issubclass(of, (PreTrainedTokenizerBase, ProcessorMixin))
    return any(inspect.isclass(each) and issubclass(of, each) for each in allowed)


def _is_value(kind: Any) -> bool:
    """Whether an argument of that type is a setting and no part."""
    return kind in (bool, int, float, str, list, tuple, dict, type(None), inspect.Signature.empty)


def _is_network(of: Any) -> bool:
    from torch import nn

    return issubclass(of, nn.Module)
