"""What the knobs make of values: choices in any case, a value of the wrong kind refused in one line."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import pytest
from omegaconf import OmegaConf

from sweep.config import config, knobs
from sweep.config.config import Config, from_dict, from_hydra
from sweep.core.errors import UsageError
from sweep.quantization.formats import FORMATS
from sweep.quantization.methods.registry import METHODS

USUAL = Config(knobs.Model("tiny", "pkg://sweep/models/tiny"), knobs.Data("stdlib"), knobs.Calibration(fisher=64))
CHOICES = {
    "method": METHODS,
    "format": FORMATS,
    "granularity": config.GRANULARITIES,
    "dtype": config.DTYPES,
    "device": ("auto", "cpu", "cuda", "cuda:1"),
    "model.weights": knobs.WEIGHTS,
    "model.backend": knobs.BACKENDS,
    "data.cut": knobs.CUTS,
    "data.split": knobs.SPLITS,
    "grouping.variant": knobs.GROUPING_VARIANTS,
    "wandb.mode": knobs.WANDB_MODES,
}
FREE = (".name", ".path", ".repo", ".revision", ".column", "store", "wandb.project", "wandb.entity", "wandb.group")


def with_value(key: str, value: Any) -> dict[str, Any]:
    values = USUAL.to_dict()
    if key == "granularity":
        values["method"] = "minmax"
    *group, name = key.split(".")
    (values[group[0]] if group else values)[name] = value
    return values


def leaves() -> list[str]:
    """Every knob that takes one value."""

    def of(kind: Any, prefix: str) -> list[str]:
        types = get_type_hints(kind)
        single = [prefix + f.name for f in fields(kind) if not re.search("list|dict|knobs", str(types[f.name]))]
        groups = [(types[f.name], f"{f.name}.") for f in fields(kind) if is_dataclass(types[f.name])]
        return single + [key for group in groups for key in of(*group)]

    return of(Config, "")


def test_a_knob_of_words_has_choices_or_is_free() -> None:
    """A new knob with choices belongs in CHOICES above, where it is tried in upper case."""
    usual = OmegaConf.create(USUAL.to_dict())
    words = {key for key in leaves() if isinstance(OmegaConf.select(usual, key), str)}
    assert {key for key in words if not key.endswith(FREE)} == set(CHOICES)


@pytest.mark.parametrize(("key", "choice"), [(key, choice) for key in CHOICES for choice in CHOICES[key]])
def test_a_choice_is_known_in_any_case_and_kept_in_its_own(key: str, choice: str) -> None:
    asked, shouted = (from_dict(with_value(key, value)) for value in (choice, choice.upper()))
    assert asked == shouted
    assert asked.identity == shouted.identity


@pytest.mark.parametrize("value", [["a", "b"], {"a": 1}], ids=["list", "dictionary"])
@pytest.mark.parametrize("key", leaves())
def test_several_values_where_one_is_wanted_are_refused(key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"^{key}=") as error:
        from_hydra(OmegaConf.create(with_value(key, value)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["calibration.seed", "calibration.folds", "calibration.samples", "data.limit"])
def test_negative_numbers_are_refused(key: str) -> None:
    with pytest.raises(UsageError, match=rf"^{key}=-1 must be at least [01]"):
        from_dict(with_value(key, -1))
