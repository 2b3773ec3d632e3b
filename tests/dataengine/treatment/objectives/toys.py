"""Generators of two parameters, whose answers and gradients are computed by hand."""

from contextlib import contextmanager

import torch

from dataengine.treatment.families.diffusion import Conditioning, Schedule


class Linear:
    """It answers w·x + b whatever the time; flow matching, its latents are its image."""

    name = "toy"
    prediction = "flow"
    guidance = 7.5
    training_guidance = 1.0
    device = torch.device("cpu")

    def __init__(self, w: float, b: float) -> None:
        self.w, self.b = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (w, b))

    def predict(self, latents, times, conditioning, guidance):
        assert guidance in (self.guidance, self.training_guidance)
        return self.w * latents + self.b

    def schedule(self, steps, latents):
        sigma = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        return Schedule(
            times=sigma[:-1],
            alpha=1 - sigma[:-1],
            sigma=sigma[:-1],
            next_alpha=1 - sigma[1:],
            next_sigma=sigma[1:],
        )

    def random_times(self, count, rng):
        return torch.rand(count, generator=rng)

    def levels(self, times):
        return 1 - times, times

    def decode(self, latents):
        return latents

    @contextmanager
    def as_other(self, w: float, b: float):
        """Context in which it answers with these parameters."""
        mine = self.w, self.b
        self.w, self.b = torch.tensor(w, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
        try:
            yield
        finally:
            self.w, self.b = mine


class Noisy(Linear):
    """The same as noise prediction with ten training times, σ² = (t + 1) / 11."""

    prediction = "epsilon"

    def random_times(self, count, rng):
        return torch.randint(10, (count,), generator=rng)

    def levels(self, times):
        squared = (times + 1) / 11
        return (1 - squared).sqrt(), squared.sqrt()


NOTHING = Conditioning({"prompt": torch.zeros(4, 1)})
