"""Checkpoints of guided-diffusion against a small UNet that is written as its paper and code describe it."""

import json
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dataengine.errors import ModelRefused
from dataengine.treatment.families.family import Refinable
from dataengine.treatment.families.guided_diffusion import convert_guided_diffusion
from dataengine.treatment.families.loading import load_family

BASE = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "num_head_channels": 16,
    "attention_resolutions": "8",
    "channel_mult": "1,2,2",
}


class Normed(nn.GroupNorm):
    def __init__(self, channels):
        super().__init__(32, channels)


class Res(nn.Module):
    def __init__(self, taken, given, embedded, shifts, resample=None):
        super().__init__()
        self.shifts, self.resample = shifts, resample
        self.in_layers = nn.Sequential(Normed(taken), nn.SiLU(), nn.Conv2d(taken, given, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedded, given * (2 if shifts else 1)))
        self.out_layers = nn.Sequential(
            Normed(given), nn.SiLU(), nn.Dropout(0), nn.Conv2d(given, given, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if taken == given else nn.Conv2d(taken, given, 1)

    def forward(self, x, embedding):
        h = self.in_layers[1](self.in_layers[0](x))
        if self.resample:
            h, x = self.resample(h), self.resample(x)
        h = self.in_layers[2](h)
        told = self.emb_layers(embedding)[..., None, None]
        if self.shifts:
            scale, shift = told.chunk(2, dim=1)
            h = self.out_layers[0](h) * (1 + scale) + shift
            h = self.out_layers[3](self.out_layers[1](h))
        else:
            h = self.out_layers(h + told)
        return self.skip_connection(x) + h


class Attention(nn.Module):
    def __init__(self, channels, width, new_order):
        super().__init__()
        self.heads, self.new_order = channels // width, new_order
        self.norm = Normed(channels)
        self.qkv, self.proj_out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x, _):
        n, channels, *side = x.shape
        flat = x.reshape(n, channels, -1)
        qkv = self.qkv(self.norm(flat))
        if self.new_order:
            q, k, v = (part.reshape(n * self.heads, -1, flat.shape[-1]) for part in qkv.chunk(3, dim=1))
        else:
            q, k, v = qkv.reshape(n * self.heads, -1, flat.shape[-1]).chunk(3, dim=1)
        weight = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(q.shape[1]), dim=-1)
        answer = (v @ weight.transpose(1, 2)).reshape(n, channels, -1)
        return (flat + self.proj_out(answer)).reshape(n, channels, *side)


class Down(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x, _):
        return self.op(x)


class Up(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, _):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Reference(nn.Module):
    """The UNet of Dhariwal & Nichol."""

    def __init__(self, flags):
        super().__init__()
        base, per = flags["num_channels"], flags["num_res_blocks"]
        shifts, updown = flags.get("use_scale_shift_norm", True), flags.get("resblock_updown", False)
        widths = [int(part) * base for part in flags["channel_mult"].split(",")]
        sides = {int(part) for part in flags["attention_resolutions"].split(",")}
        embedded = 4 * base
        self.base = base
        self.time_embed = nn.Sequential(nn.Linear(base, embedded), nn.SiLU(), nn.Linear(embedded, embedded))

        def attending(channels):
            return Attention(
                channels, flags["num_head_channels"], flags.get("use_new_attention_order", False)
            )

        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(3, widths[0], 3, padding=1)])])
        now, kept, side = widths[0], [widths[0]], flags["image_size"]
        for level, width in enumerate(widths):
            for _ in range(per):
                layers = [Res(now, width, embedded, shifts)] + ([attending(width)] if side in sides else [])
                self.input_blocks.append(nn.ModuleList(layers))
                now = width
                kept.append(now)
            if level < len(widths) - 1:
                half = lambda x: F.avg_pool2d(x, 2)  # noqa: E731
                down = Res(now, now, embedded, shifts, half) if updown else Down(now)
                self.input_blocks.append(nn.ModuleList([down]))
                kept.append(now)
                side //= 2
        self.middle_block = nn.ModuleList(
            [Res(now, now, embedded, shifts), attending(now), Res(now, now, embedded, shifts)]
        )
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for layer in range(per + 1):
                layers = [Res(now + kept.pop(), width, embedded, shifts)]
                now = width
                if side in sides:
                    layers.append(attending(width))
                if level and layer == per:
                    double = lambda x: F.interpolate(x, scale_factor=2, mode="nearest")  # noqa: E731
                    layers.append(Res(now, now, embedded, shifts, double) if updown else Up(now))
                    side *= 2
                self.output_blocks.append(nn.ModuleList(layers))
        out = 6 if flags.get("learn_sigma") else 3
        self.out = nn.Sequential(Normed(now), nn.SiLU(), nn.Conv2d(now, out, 3, padding=1))

    def forward(self, x, times):
        half = self.base // 2
        angles = times[:, None].float() * torch.exp(-math.log(10_000) * torch.arange(half) / half)
        embedding = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))
        kept = []
        for number, block in enumerate(self.input_blocks):
            for layer in block:
                x = layer(x, embedding) if number else layer(x)
            kept.append(x)
        for layer in self.middle_block:
            x = layer(x, embedding)
        for block in self.output_blocks:
            x = torch.cat([x, kept.pop()], dim=1)
            for layer in block:
                x = layer(x, embedding)
        return self.out(x)


def checkpoint(folder, **changes):
    """A random model, its file and its flags."""
    torch.manual_seed(0)
    flags = {**BASE, **changes}
    model = Reference(flags).eval().requires_grad_(False)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "model.pt")
    (folder / "flags.json").write_text(json.dumps({**flags, "batch_size": 4}))
    return model, folder / "model.pt"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resblock_updown": True, "learn_sigma": True, "attention_resolutions": "8,4"},
        {"use_new_attention_order": True, "num_res_blocks": 2},
        {"use_scale_shift_norm": False, "channel_mult": "1,1", "attention_resolutions": "16"},
    ],
    ids=["defaults", "as ImageNet's", "new order", "without shift"],
)
def test_the_converted_network_answers_the_same(tmp_path, changes):
    model, file = checkpoint(tmp_path / "theirs", **changes)
    assert convert_guided_diffusion(file, None, tmp_path / "out") == "DDPMPipeline"
    family = load_family(tmp_path / "out")
    assert isinstance(family, Refinable) and family.size == (16, 16)
    images, times = family.initial_latents([1, 2], family.size), torch.tensor([3, 700])
    ours = family.raw_output(images, times, family.encode_prompts(["", ""]))
    theirs = model(images, times)
    assert theirs.std() > 0.01 and torch.allclose(ours, theirs, atol=2e-5)
    learned = family.pipeline.scheduler.config.variance_type == "learned_range"
    assert learned == changes.get("learn_sigma", False)


def test_the_cosine_schedule_is_that_of_the_flags(tmp_path):
    _, file = checkpoint(tmp_path / "theirs", noise_schedule="cosine")
    convert_guided_diffusion(file, None, tmp_path / "out")
    betas = load_family(tmp_path / "out").betas
    level = lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    for step in (0, 500, 999):
        expected = min(0.999, 1 - level((step + 1) / 1000) / level(step / 1000))
        assert float(betas[step]) == pytest.approx(expected, abs=1e-5)


class Harmful:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_what_is_not_understood_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, file = checkpoint(tmp_path / "theirs")

    def said(path, **changes):
        flags = tmp_path / "other.json"
        flags.write_text(json.dumps({**BASE, **changes}))
        with pytest.raises(ModelRefused) as raised:
            convert_guided_diffusion(path, flags, tmp_path / "out")
        assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()
        return str(raised.value)

    assert "class-conditional" in said(file, class_cond=True)
    assert "4000 diffusion steps" in said(file, diffusion_steps=4000)
    assert "noise schedule 'sqrt'" in said(file, noise_schedule="sqrt")
    assert "no usual one for 16²" in said(file, channel_mult="")
    assert "heads of different widths" in said(file, num_head_channels=-1, attention_resolutions="16,4")
    assert "does not hold the flags" in said(file, image_size="large")
    assert "does not fit the flags" in said(file, num_res_blocks=2)
    assert "does not fit the flags" in said(file, num_channels=64)
    assert "does not fit the flags" in said(file, attention_resolutions="4")
    harmful = tmp_path / "harmful.pt"
    harmful.write_bytes(pickle.dumps({"input_blocks.0.0.weight": Harmful()}))
    assert "no state dict of plain tensors" in said(harmful) and not (tmp_path / "ran").exists()
    torch.save({"state": 1}, harmful)
    assert "no checkpoint of guided-diffusion" in said(harmful)
    with pytest.raises(ModelRefused, match=r"flags\.json is missing"):
        convert_guided_diffusion(harmful, None, tmp_path / "out")
