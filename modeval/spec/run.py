"""A whole run: data, model and training, and the name that tells it from others."""

from dataclasses import dataclass, field

from modeval.spec.data import DataSpec
from modeval.spec.model import ModelSpec, check_pair
from modeval.spec.plain import digest, to_dict
from modeval.spec.train import TrainSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """A whole run: data, model and training."""

    name: str = "modular"
    data: DataSpec = field(default_factory=DataSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    train: TrainSpec = field(default_factory=TrainSpec)

    def __post_init__(self) -> None:
        check_pair(self.data, self.model)

    @property
    def digest(self) -> str:
        """Name of the run: a hash of everything that decides its outcome."""
        return digest(to_dict(self))
