"""Settings of the engines that run shards."""

from pydantic import Field, model_validator

from dataengine.config import Config


class RayConfig(Config):
    """How shards are spread over Ray (`--engine ray`)."""

    num_cpus: float = Field(default=1.0, ge=0, le=1024)
    """CPU cores that Ray sets aside for an actor; fractions such as 0.5 are allowed."""
    num_gpus: float = Field(default=0.0, ge=0, le=64)
    """GPUs that Ray gives to an actor: 1, or a fraction such as 0.5 for two actors on one GPU, whose memory
    has to hold the models of both. 0: the models are on the CPU."""
    actors: int | None = Field(default=None, ge=1, le=10_000)
    """Actors, each with its own opened models; null for as many as the nodes have room for."""
    ahead: int = Field(default=2, ge=1, le=100)
    """Most shards in flight on an actor: the one that runs and those that wait there."""

    @model_validator(mode="after")
    def _whole_gpus_above_one(self) -> "RayConfig":
        if self.num_gpus > 1 and self.num_gpus != int(self.num_gpus):
            raise ValueError(f"num_gpus is {self.num_gpus:g}; above 1 Ray gives whole GPUs only")
        return self
