"""The two oracles: the teacher, which simulates annotators, and the judge, which measures the true artifact
frequency.

They differ in architecture, seed and data, and nothing in the loop may import this module.
"""

from pathlib import Path
from typing import Protocol, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

Network = TypeVar("Network", bound=nn.Module)


class Oracle(Protocol):
    """Predicts where images have artifacts."""

    def confidence(self, images: Tensor) -> Tensor:
        """Images float32 [N, 3, H, W] in [0, 1] to confidences float32 [N, H, W] in [0, 1],
        differentiable.
        """
        ...


class _Residual(nn.Module):
    """Two 3 × 3 convolutions with group normalisation and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.norm1 = nn.GroupNorm(8, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.norm2 = nn.GroupNorm(8, outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.silu(self.norm1(self.conv1(x)))
        return F.silu(self.shortcut(x) + self.norm2(self.conv2(inner)))


def _set_low_prior(head: nn.Conv2d) -> None:
    """Set the output bias to a low confidence: most pixels have no artifact."""
    assert head.bias is not None
    nn.init.constant_(head.bias, -2.5)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class Judge(nn.Module):
    """A residual U-Net of four levels; its output is pixel-shuffled from half to full resolution."""

    def __init__(self, widths: tuple[int, int, int] = (40, 80, 128)) -> None:
        super().__init__()
        a, b, c = widths
        self.stem = nn.Conv2d(3, a, 5, 2, 2)
        self.down1 = _Residual(a, a)
        self.down2 = nn.Sequential(_Residual(a, b, 2), _Residual(b, b))
        self.down3 = nn.Sequential(_Residual(b, c, 2), _Residual(c, c))
        self.down4 = nn.Sequential(_Residual(c, c, 2), _Residual(c, c))
        self.up3 = _Residual(2 * c, c)
        self.up2 = _Residual(b + c, b)
        self.up1 = _Residual(a + b, a)
        self.head = nn.Conv2d(a, 4, 1)
        _set_low_prior(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [0, 1], H and W divisible by 16, to logits [N, H, W]."""
        half = self.down1(self.stem(images * 2 - 1))
        quarter = self.down2(half)
        eighth = self.down3(quarter)
        x = self.up3(torch.cat([_doubled(self.down4(eighth)), eighth], 1))
        x = self.up2(torch.cat([_doubled(x), quarter], 1))
        x = self.up1(torch.cat([_doubled(x), half], 1))
        return F.pixel_shuffle(self.head(x), 2)[:, 0]

    def confidence(self, images: Tensor) -> Tensor:
        return self(images).float().sigmoid()


class _Spatial(nn.Module):
    """Large-kernel depthwise mixing, then a two-layer perceptron on each pixel (Liu et al., ConvNeXt,
    2022).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.GroupNorm(1, width)
        self.expand = nn.Conv2d(width, 3 * width, 1)
        self.contract = nn.Conv2d(3 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.contract(F.gelu(self.expand(self.norm(self.mix(x)))))


class Teacher(nn.Module):
    """A pyramid of ConvNeXt blocks with a top-down path of sums, resized bilinearly to full resolution."""

    def __init__(
        self, widths: tuple[int, int, int, int] = (48, 96, 144, 192), depths: tuple[int, ...] = (1, 2, 2, 2)
    ) -> None:
        super().__init__()
        inputs = (3, *widths[:-1])
        self.shrink = nn.ModuleList(
            nn.Conv2d(before, width, 4 if level == 0 else 2, 2, 1 if level == 0 else 0)
            for level, (before, width) in enumerate(zip(inputs, widths, strict=True))
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*(_Spatial(width) for _ in range(depth)))
            for width, depth in zip(widths, depths, strict=True)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(width, 64, 1) for width in widths)
        self.refine = nn.ModuleList(_Spatial(64) for _ in widths)
        self.head = nn.Conv2d(64, 4, 1)
        _set_low_prior(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [0, 1], H and W divisible by 16, to logits [N, H, W]."""
        x, levels = images * 2 - 1, []
        for shrink, blocks in zip(self.shrink, self.blocks, strict=True):
            x = blocks(shrink(x))
            levels.append(x)
        top: Tensor | None = None
        for level, lateral, refine in zip(
            levels[::-1], list(self.lateral)[::-1], list(self.refine)[::-1], strict=True
        ):
            side = lateral(level)
            top = refine(side if top is None else side + _doubled(top))
        assert top is not None
        return F.pixel_shuffle(self.head(top), 2)[:, 0]

    def confidence(self, images: Tensor) -> Tensor:
        return self(images).float().sigmoid()


def load_teacher(folder: Path) -> Teacher:
    """Load the teacher, frozen, from a folder that `parts.materialise("teacher", …)` or `build.build`
    wrote."""
    return _loaded(Teacher(), folder)


def load_judge(folder: Path) -> Judge:
    """Load the judge, frozen, from a folder that `parts.materialise("judge", …)` or `build.build` wrote."""
    return _loaded(Judge(), folder)


def _loaded(network: Network, folder: Path) -> Network:
    network.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return network.eval().requires_grad_(False)
