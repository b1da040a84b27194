"""The rule by which a cost ranks settings of which not every one has it."""

from __future__ import annotations

from collections.abc import Mapping


def ranks(known: Mapping[str, int], of: int) -> str | None:
    """The measure that ranks `of` settings, by how many of them it is known: the one known of most, the first of
    equals, if it is known of all, or of more than one and at least half. None where there is no such measure."""
    most = max(known, key=lambda name: known[name])
    enough = known[most] == of or (known[most] > 1 and 2 * known[most] >= of)
    return most if known[most] and enough else None
