"""Self-refining training: what the map changes, what it leaves, and that a killed run goes on."""

import json
from typing import get_args

import numpy as np
import pytest
import torch

from dataengine.diagnosis.config import HighlighterConfig
from dataengine.errors import Cancelled, ConfigRefused, NonFinite
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.refining.config import RefiningConfig
from dataengine.treatment.refining.trainer import (
    identity_of,
    noise_and_target,
    refine,
    same_place,
    worse_in_a_row,
)
from dataengine.treatment.sampling.sampler import as_uint8, generate
from dataengine.treatment.tuning.progress import fork
from tests.dataengine.treatment import tiny

CONFIG = RefiningConfig(
    steps=6,
    cycle=2,
    batch=2,
    sample_steps=2,
    highlighted=12,
    highlighter=HighlighterConfig(epochs=1, batch=12),
    lr=1e-3,
    checkpoint_every=2,
)
KINDS = {
    "ddpm": tiny.ddpm,
    "improved ddpm": lambda folder: tiny.ddpm(folder, learned=True),
    "stable diffusion": tiny.stable_diffusion,
    "dit": tiny.dit,
    "ldm": tiny.ldm,
}
PROMPTS = {"stable diffusion": list(tiny.PROMPTS) * 4, "dit": ["goldfish", "3", "", "0"] * 4}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: make(tmp_path_factory.mktemp("base")) for name, make in KINDS.items()}


@pytest.fixture(scope="module")
def refined(images, folders, tmp_path_factory):
    """By kind: the family as it is after its run, and the run's result."""
    made = {}
    for name, folder in folders.items():
        family = load_family(folder)
        work = tmp_path_factory.mktemp("refined")
        made[name] = family, refine(CONFIG, family, images, work, PROMPTS.get(name, ()))
    return made


def changed(**settings):
    return CONFIG.model_copy(update=settings)


# By form: what becomes of a value e of the noise in x_t, and in the target, where the map is m and λ 0.1.
FORMS = {
    "both": (lambda e, m: e + 0.1 * m, lambda e, m: e + 0.1 * m),
    "target": (lambda e, m: e, lambda e, m: e + 0.1 * m),
    "state": (lambda e, m: e + 0.1 * m, lambda e, m: e),
    "multiplied": (lambda e, m: e * (1 + 0.1 * m), lambda e, m: e),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_noise_is_that_of_its_equation(form):
    noise = torch.arange(-12.0, 12.0).reshape(2, 3, 2, 2) / 4
    mfam = torch.tensor([[0.0, 1.0], [0.5, 0.25]])
    for found, rule in zip(noise_and_target(noise, mfam, 0.1, form), FORMS[form], strict=True):
        for image in range(2):
            for channel in range(3):
                for row in range(2):
                    for column in range(2):
                        wanted = rule(float(noise[image, channel, row, column]), float(mfam[row, column]))
                        assert float(found[image, channel, row, column]) == pytest.approx(wanted, abs=1e-6)
    for given, strength in ((None, 0.1), (mfam, 0)):
        assert all(each is noise for each in noise_and_target(noise, given, strength, form))


def test_the_forms_are_those_of_the_settings():
    assert set(FORMS) == set(get_args(RefiningConfig.model_fields["form"].annotation))


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_learns_and_everything_else_stays(refined, folders, kind):
    family, result = refined[kind]
    assert len(result.losses) == 6 and result.maps == 2 and np.isfinite(result.losses).all()
    before = load_family(folders[kind])
    for part, network in before.modules().items():
        after = family.modules()[part].state_dict()
        assert set(after) == set(network.state_dict()), "nothing of the training is left in the network"
        moved = [name for name, weight in network.named_parameters() if not torch.equal(weight, after[name])]
        assert bool(moved) == (network is before.denoiser)
        assert not any(weight.requires_grad for weight in family.modules()[part].parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_a_stock_pipeline_that_draws_what_ours_draws(refined, kind):
    family, result = refined[kind]
    prompts = PROMPTS.get(kind, [""] * 2)[:2]
    settings = SamplingConfig(steps=3)
    ours = generate(family, prompts, [5, 6], settings)
    assert np.array_equal(ours, generate(load_family(result.folder), prompts, [5, 6], settings))
    stock = as_uint8(torch.from_numpy(stock_images(kind, result.folder)).permute(0, 3, 1, 2))
    assert np.abs(ours.astype(int) - stock).max() <= 1


def stock_images(kind, folder):
    """Images float NHWC of diffusers alone."""
    from diffusers import (
        DDIMPipeline,
        DDIMScheduler,
        DDPMPipeline,
        DiTPipeline,
        LDMPipeline,
        StableDiffusionPipeline,
    )

    given = {
        "num_inference_steps": 3,
        "generator": [torch.Generator().manual_seed(seed) for seed in (5, 6)],
        "output_type": "np",
    }
    if kind == "stable diffusion":
        stock = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True, safety_checker=None)
        return stock(list(tiny.PROMPTS[:2]), guidance_scale=7.5, **given).images
    if kind == "dit":
        return DiTPipeline.from_pretrained(folder)(class_labels=[1, 3], guidance_scale=4.0, **given).images
    if kind == "ldm":
        return LDMPipeline.from_pretrained(folder, use_safetensors=True)(batch_size=2, **given).images
    if kind == "ddpm":
        assert type(DDPMPipeline.from_pretrained(folder).scheduler).__name__ == "DDPMScheduler"
        return DDIMPipeline.from_pretrained(folder)(batch_size=2, **given).images
    # Diffusers' DDIM knows no learned variance, so its pipeline is walked by hand; DDPM's own call runs too.
    stock = DDPMPipeline.from_pretrained(folder)
    assert stock(batch_size=1, num_inference_steps=3, output_type="np").images.shape == (1, 32, 32, 3)
    scheduler = DDIMScheduler.from_config(stock.scheduler.config)
    scheduler.set_timesteps(3)
    state = torch.cat([torch.randn(1, 3, 32, 32, generator=each) for each in given["generator"]])
    with torch.no_grad():
        for time in scheduler.timesteps:
            state = scheduler.step(stock.unet(state, time).sample[:, :3], time, state).prev_sample
    return (state / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("kind", ["improved ddpm", "stable diffusion"])
def test_a_killed_run_goes_on_as_if_undisturbed(images, folders, tmp_path, refined, kind):
    def stop(done, total, message="", **figures):
        if message == "refining" and done == 5:
            raise Cancelled("stop")

    prompts = PROMPTS.get(kind, ())
    with pytest.raises(Cancelled):
        refine(CONFIG, load_family(folders[kind]), images, tmp_path, prompts, stop)
    family = load_family(folders[kind])
    again = refine(CONFIG, family, images, tmp_path, prompts)
    assert again.losses == pytest.approx(refined[kind][1].losses, rel=1e-5) and again.maps == 2
    for one, other in zip(family.denoiser.parameters(), refined[kind][0].denoiser.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    with pytest.raises(ConfigRefused, match="other settings"):
        refine(changed(reverse=0.5), load_family(folders[kind]), images, tmp_path, prompts)


def test_the_base_phase_is_ordinary_training(images, folders, tmp_path, refined):
    base = refine(changed(refinement=0.0), load_family(folders["ddpm"]), images, tmp_path)
    known = refined["ddpm"][1].losses
    assert base.losses[:3] == pytest.approx(known[:3], rel=1e-6) and base.maps == 0
    assert base.losses[3:] != pytest.approx(known[3:], rel=1e-6)


def test_it_stops_when_images_become_worse_and_keeps_the_best(images, folders, tmp_path, refined):
    """KID 3 after the base phase, then 1, 2, 4 after each update: two in a row are worse than 1."""
    known, seen = [3.0, 1.0, 2.0, 4.0], []

    def measure(own):
        assert own.shape == (10, 32, 32, 3) and own.dtype == np.uint8
        seen.append(own)
        return {"kid": known[len(seen) - 1]} if len(seen) <= len(known) else {"kid": 1.0}

    config = changed(steps=8, measured=10, measure_every=1, patience=2)
    family = load_family(folders["ddpm"])
    result = refine(config, family, images, tmp_path, measure=measure)
    assert (len(result.losses), result.before["kid"], result.after["kid"]) == (7, 3.0, 1.0)
    assert "stopped after 7 updates" in result.stopped and "1.00000, in 2 measurements" in result.stopped
    assert np.array_equal(seen[1], seen[-1]) and not np.array_equal(seen[1], seen[-2]), "the best are saved"


def test_it_goes_on_without_patience_and_measures_the_base_phase_and_the_end(images, folders, tmp_path):
    known = iter([1.0, 2.0, 3.0, 5.0])
    config = changed(measured=10, measure_every=1, patience=0)
    measured = refine(
        config, load_family(folders["ddpm"]), images, tmp_path, measure=lambda own: {"kid": next(known)}
    )
    assert (measured.before, measured.after, measured.stopped) == ({"kid": 1.0}, {"kid": 5.0}, "")
    assert len(measured.losses) == 6 and 0 <= measured.variation <= 1


def test_the_last_distances_above_the_lowest_are_counted():
    for distances, count in (([3.0], 0), ([3.0, 2.0], 0), ([1.0, 2.0, 1.5], 2), ([1.0, 2.0, 0.5, 0.6], 1)):
        assert worse_in_a_row(distances) == count


def test_maps_of_the_same_place_are_reported():
    assert "variation between images 0.040, below 0.1" in same_place(0.04, 0.1)
    assert same_place(0.1, 0.1) == same_place(None, 0.1) == ""


def test_settings_added_later_do_not_end_older_runs():
    stored = json.loads(identity_of(CONFIG, "unconditional", 16, [""]))[0]
    assert not {"patience", "measured", "measure_every", "least_variation"} & set(stored)
    assert set(stored["highlighter"]) == {"name", "weights", "lr", "batch", "epochs", "seed"}
    other = changed(highlighter=CONFIG.highlighter.model_copy(update={"head": "pooled"}))
    assert identity_of(other, "unconditional", 16, [""]) != identity_of(CONFIG, "unconditional", 16, [""])


def test_either_part_alone_changes_the_refinement(images, folders, tmp_path, refined):
    losses = [refined["ddpm"][1].losses]
    for row, settings in enumerate(({"forward": 0.0}, {"reverse": 0.0}, {"forward": 0.0, "reverse": 0.0})):
        run = refine(changed(**settings), load_family(folders["ddpm"]), images, tmp_path / str(row))
        losses.append(run.losses)
    assert len({tuple(np.round(each[3:], 9)) for each in losses}) == 4
    assert len({tuple(np.round(each[:3], 6)) for each in losses}) == 1


def test_runs_that_share_their_base_phase_can_be_forked(images, folders, tmp_path, refined):
    def stop(done, total, message="", **figures):
        if message == "training" and done == 3:
            raise Cancelled("the base phase is over")

    config, other = changed(checkpoint_every=1), changed(checkpoint_every=1, form="state")
    with pytest.raises(Cancelled):
        refine(config, load_family(folders["ddpm"]), images, tmp_path / "base", report=stop)
    old, new = (identity_of(each, "unconditional", 16, [""] * 16) for each in (config, other))
    fork(tmp_path / "base", tmp_path / "row", old, new)
    forked = refine(other, load_family(folders["ddpm"]), images, tmp_path / "row")
    whole = refine(other, load_family(folders["ddpm"]), images, tmp_path / "whole")
    assert forked.losses == pytest.approx(whole.losses, rel=1e-5)
    with pytest.raises(ConfigRefused, match="another run"):
        fork(tmp_path / "base", tmp_path / "third", new, old)


def test_recomputing_activations_changes_nothing(images, folders, tmp_path, refined):
    for kind in ("ddpm", "stable diffusion"):
        config = changed(checkpointing=True)
        run = refine(config, load_family(folders[kind]), images, tmp_path / kind, PROMPTS.get(kind, ()))
        assert run.losses == pytest.approx(refined[kind][1].losses, rel=1e-3)


def test_what_cannot_be_refined_is_refused(images, folders, tmp_path, flux_folder):
    ddpm, latent = load_family(folders["ddpm"]), load_family(folders["dit"])
    with pytest.raises(ConfigRefused, match=r"\(32, 32, 3\)"):
        refine(CONFIG, ddpm, images[:, :16, :16], tmp_path)
    with pytest.raises(ConfigRefused, match=r"\(0, 32, 32, 3\)"):
        refine(CONFIG, ddpm, images[:0], tmp_path)
    with pytest.raises(ConfigRefused, match="16 images and 1 prompts"):
        refine(CONFIG, ddpm, images, tmp_path, ["a house"])
    with pytest.raises(ConfigRefused, match=r"4 images.*highlighter"):
        refine(CONFIG, ddpm, images[:4], tmp_path)
    with pytest.raises(ConfigRefused, match="forward"):
        refine(changed(forward=0.01), latent, images, tmp_path)
    with pytest.raises(ConfigRefused, match="flux cannot be refined"):
        refine(CONFIG, load_family(flux_folder), images, tmp_path)
    with pytest.raises(ConfigRefused, match="precision float32"):
        refine(CONFIG, load_family(folders["ddpm"], dtype=torch.bfloat16), images, tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_non_finite_loss_names_the_step(images, folders, tmp_path):
    family = load_family(folders["ddpm"])
    with torch.no_grad():
        family.denoiser.conv_out.bias.fill_(float("nan"))
    with pytest.raises(NonFinite, match="step 0"):
        refine(CONFIG, family, images, tmp_path)
