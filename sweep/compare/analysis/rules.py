"""The words of a verdict, and the rule behind each.

In words that every report prints (sentences.rules): six families of tests per report – the SQNR
of every site's mean over layers, of every single (layer, site), the scale of every site's mean, what other
settings lose to the recommended one, perplexity, and the cost in nats – each corrected by Holm to a sixth of 5 %: at
most 5 % for any false alarm in the whole report, however many rows it has. Where the cost of the baseline and
of at least half of the cells is known, measured or predicted, it decides, and judges the cells that have it: an effect
matters from 0.001 nats per token on. Elsewhere an effect is one that the scales and the SQNR both show, and it matters
from 0.1 dB on.
"""

from __future__ import annotations

from sweep.compare.analysis.cost import NEGLIGIBLE_NATS

DEAD, NOISE, NEGLIGIBLE, MATTERS, UNRESOLVED, UNEXAMINED = (
    "dead knob",
    "no effect beyond noise",
    "real but negligible",
    "matters",
    "unresolved",
    "not examined",
)
NEGLIGIBLE_DB = 0.1
PAIRS = 2000  # of cells up to which all are tested; beyond, the TOP ones whose mean SQNR differs most
TOP, EACH = 100, 10  # of all, and of one question


RULES = {
    DEAD: "not one bit of any scale or SQNR differs between the cells",
    NOISE: "no difference of scales stands out of its error after Holm's correction",
    NEGLIGIBLE: f"the scales differ beyond their error, yet the cost by less than {NEGLIGIBLE_NATS} nats per token, or "
    f"where that is unknown SQNR by less than {NEGLIGIBLE_DB} dB, error included",
    MATTERS: f"the cost differs beyond its error, by at least {NEGLIGIBLE_NATS} nats per token (0.1 % of perplexity, "
    "the last digit that papers print of one); where it is unknown, scales and SQNR both do, SQNR by at least "
    f"{NEGLIGIBLE_DB} dB somewhere",
    UNRESOLVED: "a difference that its error neither confirms nor bounds, or no replicates to tell an error from",
    UNEXAMINED: f"there are differences; of that many cells, only the {TOP} pairs that differ most were tested",
}
