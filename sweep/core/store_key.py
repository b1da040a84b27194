"""Content-addressed keys: a readable name and a digest of everything that can change a result."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Key:
    """Identity of a calibration: everything that changes the activations, and nothing else.

    preimage: plain JSON, stored beside the statistics. prefix: for people; not part of the identity."""

    prefix: str
    preimage: dict[str, Any]

    @cached_property
    def hash(self) -> str:
        return digest(self.preimage)

    def __str__(self) -> str:
        return f"{self.prefix}-{self.hash[:16]}"


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """A phrase for each key that differs: `there` is the old one, `here` the new."""
    keys = sorted(old.keys() | new.keys())
    return [f"{k}: {old.get(k)!r} there, {new.get(k)!r} here" for k in keys if old.get(k) != new.get(k)]


def digest(preimage: dict[str, Any]) -> str:
    """SHA-256 of the preimage as JSON with sorted keys, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(preimage, sort_keys=True).encode()).hexdigest()
