"""Results beside the tables: the parts of run.json that only a finished run has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from sweep.calibration.until import Decision
from sweep.runs.totals import Totals

Json = dict[str, Any]  # what JSON calls an object


@dataclass(frozen=True)
class CalibrationRecord:
    """grouped, rescaled: the further passes over groups of channels, and over sites beyond float32's window of bins.
    grown_from: the stored calibration of fewer samples that it went on from. until: why it has as many samples as it
    has, where calibration.tolerance decided that. more: keys of other versions."""

    key: str
    preimage: Json
    path: str
    cached: bool
    grouped: CalibrationRecord | None = None
    rescaled: CalibrationRecord | None = None
    grown_from: Json | None = None
    until: Decision | None = None
    more: Json = field(default_factory=dict)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> CalibrationRecord:
        later = {name: cls.from_dict(raw[name]) for name in ("rescaled", "grouped") if raw.get(name)}
        more = {key: raw[key] for key in raw if key not in _OF_CALIBRATION}
        return cls(
            raw["key"],
            raw.get("preimage") or {},
            raw.get("path", ""),
            bool(raw.get("cached")),
            **later,
            grown_from=raw.get("grown_from"),
            until=Decision.from_dict(raw["until"]) if raw.get("until") else None,
            more=more,
        )

    @property
    def question(self) -> str:
        """The hash that a plan knows it by."""
        return self.until.question if self.until else self.key

    def to_dict(self) -> Json:
        later = {"rescaled": self.rescaled, "grouped": self.grouped}
        known = {"key": self.key, "preimage": self.preimage, "path": self.path, "cached": self.cached}
        known |= {"grown_from": self.grown_from} if self.grown_from else {}
        known |= {"until": self.until.to_dict()} if self.until else {}
        known |= self.more
        return known | {name: one.to_dict() for name, one in later.items() if one}


_OF_CALIBRATION = frozenset(f.name for f in fields(CalibrationRecord))


@dataclass(frozen=True)
class ModelRecord:
    """weights: `trained` or `random`. facts: where they come from, and the geometry: `family`, `n_layer`, ….."""

    name: str
    identity: str
    weights: str = "trained"
    facts: Json = field(default_factory=dict)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ModelRecord:
        facts = dict(raw)
        return cls(facts.pop("name"), facts.pop("identity"), facts.pop("weights", "trained"), facts)

    def to_dict(self) -> Json:
        return {"name": self.name, "identity": self.identity, "weights": self.weights, **self.facts}


@dataclass(frozen=True)
class TokensRecord:
    """data: where the text comes from. samples, seqlen, count: None where they are not known. distinct: samples that
    are no copies of others. error_factor: what errors are multiplied by because of copies; None for infinity."""

    sha256: str
    data: str
    samples: int | None
    seqlen: int | None
    count: int | None = None
    distinct: int | None = None
    error_factor: float | None = None

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> TokensRecord:
        later = (raw.get("count"), raw.get("distinct"), raw.get("error_factor"))
        return cls(raw["sha256"], raw["data"], raw["samples"], raw["seqlen"], *later)

    def to_dict(self) -> Json:
        named = ("sha256", "data", "samples", "distinct", "seqlen", "count", "error_factor")
        return {name: getattr(self, name) for name in named}


@dataclass(frozen=True)
class DeviceRecord:
    """type: `cpu` or `cuda`. name: of the processor. threads: of torch, which the order of sums depends on."""

    type: str
    name: str
    threads: int


@dataclass(frozen=True)
class Results:
    """Results of a finished run. device: None where the scales were computed elsewhere. timings: seconds, `…_s`.
    counts: of tokens and values. loss: predicted, as `cost.predicted` sums it. totals: over scales.parquet, None where
    a place has several scales. evaluation: what evaluate.* measured.
    wandb: the W&B run, None if there is none. trackers: the same of other trackers, by name. more: keys of other
    versions."""

    calibration: CalibrationRecord
    model: ModelRecord
    tokens: TokensRecord
    device: DeviceRecord | None
    timings: dict[str, float]
    counts: dict[str, int]
    loss: Json | None = None
    totals: Totals | None = None
    evaluation: Json | None = None
    wandb: Json | None = None
    trackers: Json = field(default_factory=dict)
    more: Json = field(default_factory=dict)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Results:
        device = raw.get("device")
        return cls(
            CalibrationRecord.from_dict(raw["calibration"]),
            ModelRecord.from_dict(raw["model"]),
            TokensRecord.from_dict(raw["tokens"]),
            DeviceRecord(device["type"], device["name"], device["threads"]) if device else None,
            raw.get("timings") or {},
            raw.get("counts") or {},
            raw.get("loss"),
            Totals.from_dict(raw["totals"]) if raw.get("totals") else None,
            raw.get("evaluation"),
            raw.get("wandb"),
            raw.get("trackers") or {},
            {key: raw[key] for key in raw if key not in _KNOWN},
        )

    def to_dict(self) -> Json:
        return {
            "loss": self.loss,
            **({"totals": self.totals.to_dict()} if self.totals else {}),
            "evaluation": self.evaluation,
            "wandb": self.wandb,
            **({"trackers": self.trackers} if self.trackers else {}),
            "calibration": self.calibration.to_dict(),
            "model": self.model.to_dict(),
            "tokens": self.tokens.to_dict(),
            "device": vars(self.device) if self.device else None,
            "timings": self.timings,
            "counts": self.counts,
            **self.more,
        }


_KNOWN = frozenset(f.name for f in fields(Results))
