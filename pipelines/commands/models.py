"""Commands about models and judging: generators, detectors, study, build-clinic, check."""

import argparse
import importlib
import platform
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.errors import ClinicError, ConfigRefused, JobFailed
from pipelines.commands.front import Call, Command, shared

if TYPE_CHECKING:
    from pydantic import BaseModel

    from dataengine.records import GeneratorVersion, Study

LIBRARIES = (
    *("torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "datasets"),
    *("segmentation_models_pytorch", "sqlalchemy", "alembic", "dbos", "gradio", "fastapi", "pycocotools"),
)


def generators_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--add",
        metavar="LOCATION",
        help="first register a diffusers pipeline: a folder, or owner/name[@revision]",
    )
    parser.add_argument("--name", default="", help="its name (default: that of folder or repository)")
    parser.add_argument(
        "--lora", metavar="PATH", type=Path, help="a LoRA that it carries, such as DreamBooth's"
    )
    parser.add_argument(
        "--vary", metavar="ID", help="first register this generator once more, its LoRA at another --strength"
    )
    parser.add_argument(
        "--strength",
        type=float,
        default=0.5,
        help="how far the LoRA counts: 0 base, 1 as trained (default: 0.5)",
    )
    parser.add_argument("--licence", default="", help="its licence, for cards and exports")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="type of its weights in memory (default: float32; FLUX.1 and SDXL want bfloat16)",
    )
    parser.add_argument(
        "--bits", type=int, choices=(4, 8), help="store the denoiser in so few bits (needs a GPU)"
    )


def generators(call: Call) -> Any:
    """Print every generator, after registering one where that was asked for."""
    from pipelines.generator_files import stored_as

    given = call.options
    if given.add:
        from dataengine.treatment.config import WeightsConfig
        from pipelines.registration import register_generator

        weights = WeightsConfig(precision=given.precision, bits=given.bits)
        added = register_generator(
            call.new_workspace, given.add, given.name, given.licence, weights, given.lora
        )
        call.say(f"registered {added.name}; {who_draws(call, added)}")
    if given.vary:
        from pipelines.registration import register_strength

        varied = register_strength(call.workspace, given.vary, given.strength)
        call.say(f"registered {varied.name}; {who_draws(call, varied)}")
    with call.workspace.catalog(read_only=True) as catalog:
        found = catalog.generators.list()
    for version in found:
        told = stored_as(version).told
        kind = "base and LoRA" if version.lora else "base"
        call.say(f"{version.id}  {version.name}  {kind}  {told}  {version.location}")
    if not found:
        call.say("no generator yet: `clinic generators --add FOLDER` registers a diffusers pipeline")
    return {"generators": [asdict(version) for version in found]}


def who_draws(call: Call, version: "GeneratorVersion") -> str:
    """Which rounds draw with a generator, as a line for people."""
    from pipelines.generator_files import reads_prompts

    if reads_prompts(call.workspace, version):
        return "rounds begun from now on draw with it"
    return "it reads no prompts, so rounds draw with it only where generate.generators names it"


def detectors_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--add", metavar="PATH", type=Path, help="first register a detector folder or checkpoint"
    )
    parser.add_argument("--name", default="", help="its name (default: its own)")
    parser.add_argument("--licence", default="", help="its licence (default: what its configuration says)")
    parser.add_argument(
        "--split", choices=("validation", "benchmark"), default="validation", help="what is shown"
    )
    parser.add_argument("--round", metavar="ID", help="whose labels count as new (default: the newest round)")
    parser.add_argument(
        "--measure", action="store_true", help="measure every version on today's labels first"
    )
    parser.add_argument(
        "--calibrate", metavar="ID", help="fit this detector's temperature on validation first"
    )
    parser.add_argument("--device", help="cpu, cuda:0, … (default: the first GPU, else cpu)")


def detectors(call: Call) -> Any:
    """Print the leaderboard, after measuring or calibrating where that was asked for."""
    from pipelines import leaderboard
    from pipelines.commands.work import newest
    from pipelines.context import Context
    from pipelines.devices import default_device
    from pipelines.tools import real_tools

    given = call.options
    if given.add:
        from pipelines.registration import register_detector

        added = register_detector(call.new_workspace, given.add, given.name, given.licence)
        call.say(f"{added.id}: {added.name}, licence {added.licence}, {added.role}")
    context = Context(call.workspace, real_tools(given.device or default_device()), call.report)
    if given.measure:
        leaderboard.measured(context, newest(call).id)
    if given.calibrate:
        found = leaderboard.calibrated(context, newest(call).id, given.calibrate)
        errors = f"calibration error {found['before']['error']:.4f} → {found['after']['error']:.4f}"
        call.say(
            f"{given.calibrate}: temperature {found['temperature']:.3f}, {errors}; used only where asked for"
        )
    call.report.close()
    rows = leaderboard.leaderboard(context, given.split)
    for line in leaderboard.table(rows):
        call.say(line)
    return {"split": given.split, "detectors": rows}


def study_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="every study and its votes (the default)", parents=[shared()])
    opened = actions.add_parser(
        "open", help="a blind study of a round's treated generator and its base", parents=[shared()]
    )
    opened.add_argument("--round", metavar="ID", help="the judged round (default: the newest one)")
    opened.add_argument("--name", default="", help="what raters see (default: the round's date)")
    opened.add_argument(
        "--seed",
        type=int,
        help="seed of what stands left and right (default: drawn, and told nobody)",
    )
    actions.add_parser("close", help="take no more votes", parents=[shared()]).add_argument("study")


def study(call: Call) -> Any:
    given = call.options
    if given.action == "open":
        open_study(call)
    if given.action == "close":
        with call.workspace.catalog() as catalog:
            catalog.studies.close(given.study)
            catalog.commit()
    with call.workspace.catalog(read_only=True) as catalog:
        found = [say_study(call, each, catalog.votes.of_study(each.id)) for each in catalog.studies.list()]
    if not found:
        call.say("no study yet: `clinic study open` makes one of a round that `judge` has ended")
    return {"studies": found}


def open_study(call: Call) -> None:
    """Write the study row. Raises `ConfigRefused` when the round has no pairs yet."""
    from dataengine.records import Study, digest
    from pipelines.commands.work import newest
    from pipelines.context import Context
    from pipelines.judge import pairs_of
    from pipelines.tools import real_tools

    row = newest(call)
    treated = row.results.get("treat", {})
    pairs = pairs_of(Context(call.workspace, real_tools()), row.id) if treated.get("treated") else []
    if not pairs:
        raise ConfigRefused(
            f"{row.id} has no pairs to judge: it has not treated a generator, or not judged it"
        )
    seed = secrets.randbits(62) if call.options.seed is None else call.options.seed
    study = Study(
        id=digest("study", row.id, seed),
        name=call.options.name or f"Before and after, {row.id}",
        before_id=treated["generator"],
        after_id=treated["treated"],
        pairs=tuple((pair.before.id, pair.after.id) for pair in pairs),
        seed=seed,
        round_id=row.id,
        created_by="command line",
    )
    with call.workspace.catalog() as catalog:
        catalog.studies.add(study)
        catalog.commit()


def say_study(call: Call, study: "Study", votes: Any) -> dict[str, Any]:
    """One study with its verdicts; raters who failed their attention checks are left out."""
    from dataengine.quality.config import StudyDesign
    from dataengine.quality.study import counted, verdict

    design = StudyDesign.model_validate(study.design)
    kept, _ = counted(votes, len(study.pairs), design.keep_from)
    verdicts = {each: asdict(verdict(kept, each, design.margin)) for each in design.questions}
    call.say(f"{study.id}  {study.name}: {study.state}, {len(study.pairs)} pairs, {len(votes)} votes")
    for question, found in verdicts.items():
        rate = (
            "undecided"
            if found["win_rate"] is None
            else f"after wins {found['win_rate']:.0%} of decided pairs"
        )
        call.say(f"  {question:10} {rate} ({found['after']} : {found['before']}, {found['ties']} ties)")
    return {"study": study.id, "name": study.name, "state": study.state, "verdicts": verdicts}


def build_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("build/clinic"), help="default: build/clinic")
    parser.add_argument("--part", action="append", help="train only this part; may be repeated")
    parser.add_argument("--device", default="cpu", help="cpu, cuda:0, …")


def build_clinic(call: Call) -> Any:
    from dataengine.clinic.build import build
    from dataengine.clinic.config import BuildConfig

    given = call.options
    parts = {"parts": tuple(given.part)} if given.part else {}
    config = BuildConfig.model_validate({"device": given.device, **parts})
    build(config, given.out, call.report)
    call.report.close()
    call.say(f"{', '.join(config.parts)} in {given.out}")
    return {"out": given.out, "parts": config.parts}


def build_config() -> "type[BaseModel]":
    from dataengine.clinic.config import BuildConfig

    return BuildConfig


def check(call: Call) -> Any:
    """Look at everything that an installation needs. Raises `JobFailed` naming what is unsound."""
    looked = {
        "python": check_python,
        "libraries": check_libraries,
        "device": check_device,
        "clinic weights": check_weights,
        "workspace": lambda: check_workspace(call),
    }
    found: dict[str, str] = {}
    unsound = []
    for name, look in looked.items():
        try:
            found[name] = look()
        except (ClinicError, ImportError, OSError, RuntimeError, ValueError) as error:
            found[name] = " ".join(f"{type(error).__name__}: {error}".split())
            unsound.append(name)
        call.say(f"{'✗' if name in unsound else '✓'} {name}: {found[name]}")
    if unsound:
        raise JobFailed("; ".join(f"{name}: {found[name]}" for name in unsound))
    return found


def check_python() -> str:
    return f"{platform.python_version()} on {platform.platform()}"


def check_libraries() -> str:
    """Import every library, so that a torch and a torchvision of different builds show here."""
    versions = {name: getattr(importlib.import_module(name), "__version__", "") for name in LIBRARIES}
    return ", ".join(f"{name} {version}".strip() for name, version in versions.items())


def check_device() -> str:
    import torch

    from pipelines.devices import default_device

    device = default_device()
    torch.ones(2, device=device).sum().item()
    return f"{device} computes"


def check_weights() -> str:
    from dataengine.clinic.weights import frozen_sums, load_part

    parts = [Path(name).stem for name in frozen_sums()]
    for part in parts:
        load_part(part)
    return f"{', '.join(parts)} match their hashes"


def check_workspace(call: Call) -> str:
    if not call.options.workspace.exists():
        return f"none in {call.options.workspace} yet"
    blob = call.workspace.blobs.put(b"clinic check")
    call.workspace.blobs.get(blob)
    with call.workspace.catalog() as catalog:
        images = catalog.images.count()
    return f"{call.workspace.path} reads and writes, {images} images"


COMMANDS = (
    Command(
        name="generators",
        summary="every generator version: register a pipeline from a folder or the hub, list",
        run=generators,
        arguments=generators_arguments,
        examples=(
            "clinic generators",
            "clinic generators --add models/sdxl --precision bfloat16",
            "clinic generators --add black-forest-labs/FLUX.1-schnell --precision bfloat16 --bits 4",
        ),
    ),
    Command(
        name="detectors",
        summary="every detector version side by side: register, measure, calibrate, compare",
        run=detectors,
        arguments=detectors_arguments,
        examples=(
            "clinic detectors",
            "clinic detectors --add ad_pytorch_model.bin --name DiffDoctor",
            "clinic detectors --measure --split benchmark",
        ),
    ),
    Command(
        name="study",
        summary="blind judging of before against after: open, close, verdicts",
        run=study,
        arguments=study_arguments,
        examples=("clinic study open", "clinic study", "clinic study close ID"),
    ),
    Command(
        name="build-clinic",
        summary="train the embedded clinic's models anew (hours on two cores)",
        run=build_clinic,
        arguments=build_arguments,
        examples=("clinic build-clinic --part judge --out build/clinic",),
        settings=build_config,
    ),
    Command(
        name="check",
        summary="is this installation sound?",
        run=check,
        examples=("clinic check", "clinic check --json"),
    ),
)
