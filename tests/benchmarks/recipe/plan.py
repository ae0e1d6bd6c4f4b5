"""What an experiment is: its data, its base recipe, its arms and how their vectors are made."""

import tomllib
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sttrain.model.inference import InferenceConfig
from sttrain.settings import lay_over
from sttrain.train.config import RunConfig

FILE = Path(__file__).with_name("arms.toml")
INFERENCES: Mapping[str, InferenceConfig] = {
    "output": InferenceConfig(),
    "nb6": InferenceConfig(neighbours=6),
    "nb18": InferenceConfig(neighbours=18),
    "nb18-pca10": InferenceConfig(neighbours=18, components=10),
    "nb18-pca20": InferenceConfig(neighbours=18, components=20),
    "centred-nb18-pca20": InferenceConfig(neighbours=18, centre=True, components=20),
    "nb18-pca20-beside50": InferenceConfig(neighbours=18, components=20, expression=50),
}
"""Ways to make vectors, each judged for every arm: they cost next to nothing. The last one
came late, and is known of some arms alone."""
FOR_THE_BASE: Mapping[str, InferenceConfig] = {
    f"layer{n}-nb18-pca20": InferenceConfig(layer=n, neighbours=18, components=20) for n in (0, 2)
} | {
    f"nb18-pca20-white{power:g}": InferenceConfig(neighbours=18, components=20, whiten=power)
    for power in (0.25, 0.5, 0.75, 1)
}
"""More of them, for the base alone."""
ALONE = "nb18-pca20"
"""What the encoder gives alone, which levers are told apart by."""
CHOSEN = "nb18-pca20-beside50"
"""What `small.toml` asks for: the same, and expression beside it."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataPlan(_Part):
    """Sections and corpora."""

    folder: str
    genes: int
    n_per_slice: int
    eval_genes: int
    cover: int
    draws: int


class Arm(_Part):
    """One change of the base recipe."""

    name: str
    what: str
    untrained: bool = False
    """Judge its first weights too: they differ from the base's, or it is the base."""
    changes: dict[str, Any] = Field(default={}, alias="set")


class Plan(_Part):
    """All arms over one base."""

    data: DataPlan
    base: dict[str, Any]
    arms: tuple[Arm, ...]

    def recipe(self, arm: Arm, seed: int) -> RunConfig:
        """Return the recipe of an arm."""
        value = deepcopy(self.base)
        lay_over(value, {**arm.changes, "seed": seed})
        return RunConfig.model_validate(value)


def read_plan() -> Plan:
    """Read the arms of this project."""
    return Plan.model_validate(tomllib.loads(FILE.read_text("utf-8")))
