"""Numbers with their errors, as people read them."""

from __future__ import annotations

import math

from sweep.compare.analysis.cost import Estimate

FINEST = 6  # decimals; below, a power of ten
COMPACT = "0.012(3) stands for 0.012 ± 0.003"


def counted(number: int, noun: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def nats(value: Estimate | None, error: bool = True, signed: bool = False, compact: bool = False) -> str:
    """`0.0056 ± 0.0002`, or compact `0.0056(2)`: to the first digit of the error; without one, to three digits. An en
    dash for None."""
    if value is None or math.isnan(value.value):
        return "–"
    sign = "+" if signed else ""
    if not (error and value.se > 0 and math.isfinite(value.se)):
        return f"{value.value:{sign}.3g}".replace("-", "−", 1)
    decimals = max(0, -math.floor(math.log10(value.se)))
    if decimals > FINEST:
        power = math.floor(math.log10(max(abs(value.value), value.se)))
        scaled = Estimate(value.value / 10.0**power, value.se / 10.0**power)
        text = nats(scaled, signed=signed, compact=compact)
        return f"{text}e{power}" if compact else f"({text})e{power}"
    shown = f"{value.value:{sign}.{decimals}f}".replace("-", "−", 1)
    error_shown = f"{value.se:.{decimals}f}"
    return f"{shown}({error_shown.replace('.', '').lstrip('0')})" if compact else f"{shown} ± {error_shown}"


def decibels(value: float | None, error: float | None = None, compact: bool = False) -> str:
    """`33.28 ± 0.02`, or compact `33.28(2)` and `25.8(3)`, to the first digit of the error; one too small to show is an
    upper bound. An en dash for None."""
    if value is None or math.isnan(value):
        return "–"
    shown = f"{value:.2f}".replace("-", "−")
    if error is None or not math.isfinite(error):
        return shown
    if round(100 * error) == 0:
        return f"{shown}(<1)" if compact else f"{shown} ± <0.01"
    return nats(Estimate(value, max(error, 0.01)), compact=True) if compact else f"{shown} ± {error:.2f}"


def share(value: float | None) -> str:
    """`0.05 %`; an upper bound if that would round to 0."""
    if value is None or math.isnan(value):
        return "–"
    return "0" if value == 0 else "<0.001%" if value < 1e-5 else f"{value:.3%}"
