"""Standard errors against resampling and against closed forms."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweep.evaluation.scores import Scores


def scores(texts: int = 400, seed: int = 0, equal: bool = False) -> Scores:
    rng = np.random.default_rng(seed)
    tokens = np.full(texts, 63) if equal else rng.integers(20, 200, texts)
    level = rng.normal(1.5, 0.4, texts)
    nll0 = level * tokens
    return Scores(
        tokens=tokens,
        bytes=3 * tokens + rng.integers(0, 9, texts),
        nll=nll0 + rng.normal(0.02, 0.01, texts) * tokens,
        baseline_nll=nll0,
        kl=rng.gamma(2.0, 0.01, texts) * tokens,
        agree=rng.binomial(tokens, 0.97),
    )


def pick(s: Scores, rows: np.ndarray) -> Scores:
    return Scores(**{f.name: getattr(s, f.name)[rows] for f in fields(s)})


def test_values_are_means_over_tokens_and_bytes() -> None:
    s = scores()
    x, base = s.summary(), s.baseline()
    assert x["nll"] == pytest.approx(s.nll.sum() / s.tokens.sum(), rel=1e-14)
    assert x["perplexity"] == pytest.approx(np.exp(s.nll.sum() / s.tokens.sum()), rel=1e-14)
    assert x["bits_per_byte"] == pytest.approx(s.nll.sum() / np.log(2) / s.bytes.sum(), rel=1e-14)
    assert x["kl"] == pytest.approx(s.kl.sum() / s.tokens.sum(), rel=1e-14)
    assert x["top1_agreement"] == pytest.approx(s.agree.sum() / s.tokens.sum(), rel=1e-14)
    for name in ("nll", "perplexity", "bits_per_byte"):
        assert x[f"delta_{name}"] == pytest.approx(x[name] - base[name], rel=1e-9)


def test_errors_of_equal_texts_are_the_textbook_s() -> None:
    s = scores(equal=True)
    x = s.summary()

    def error(per_text: np.ndarray) -> float:
        return float(per_text.std(ddof=1) / np.sqrt(len(per_text)))

    nll, nll0 = s.nll / 63, s.baseline_nll / 63
    assert x["nll_se"] == pytest.approx(error(nll), rel=1e-12)
    assert x["perplexity_se"] == pytest.approx(np.exp(nll.mean()) * error(nll), rel=1e-12)
    assert x["delta_nll_se"] == pytest.approx(error(nll - nll0), rel=1e-12)
    assert x["delta_nll_se"] < 0.1 * x["nll_se"]  # texts differ far more than the networks do
    linear = np.exp(nll.mean()) * nll - np.exp(nll0.mean()) * nll0
    assert x["delta_perplexity_se"] == pytest.approx(error(linear), rel=1e-12)
    assert x["kl_se"] == pytest.approx(error(s.kl / 63), rel=1e-12)
    assert x["top1_agreement_se"] == pytest.approx(error(s.agree / 63), rel=1e-12)


def test_errors_of_unequal_texts_are_the_bootstrap_s() -> None:
    s, rng = scores(), np.random.default_rng(1)
    x = s.summary()
    drawn = [pick(s, rng.integers(0, 400, 400)).summary() for _ in range(1500)]
    for name in [name for name in x if not name.endswith("_se")]:
        spread = np.std([d[name] for d in drawn], ddof=1)
        assert x[f"{name}_se"] == pytest.approx(spread, rel=0.08), name  # 1500 draws know a spread to 2 %


def test_one_text_has_no_error_and_what_overflows_is_none() -> None:
    x = pick(scores(), np.array([0])).summary()
    assert x["kl"] is not None
    assert {value for name, value in x.items() if name.endswith("_se")} == {None}
    s = scores()
    wild = replace(s, nll=s.tokens * 1e4).summary()
    assert (wild["perplexity"], wild["delta_perplexity"], wild["perplexity_se"]) == (None, None, None)
    assert wild["nll"] == 1e4


def test_two_networks_are_compared_text_by_text() -> None:
    a, rng = scores(equal=True), np.random.default_rng(5)
    b = replace(a, nll=a.nll + rng.normal(0.01, 0.02, 400) * 63, kl=a.kl + rng.normal(0.001, 0.002, 400) * 63)
    found = b.against(a)
    for name in ("nll", "kl"):
        apart = (getattr(b, name) - getattr(a, name)) / 63
        assert found[f"delta_{name}"] == pytest.approx(apart.mean(), rel=1e-9)
        assert found[f"delta_{name}_se"] == pytest.approx(apart.std(ddof=1) / 20, rel=1e-9)
    assert found["delta_perplexity"] == pytest.approx(b.summary()["perplexity"] - a.summary()["perplexity"], rel=1e-9)
    assert found["perplexity"] == b.summary()["perplexity"]
    for other in (scores(399, equal=True), replace(a, baseline_nll=a.baseline_nll + 1e-9)):
        with pytest.raises(ValueError, match="cannot be paired"):
            b.against(other)


def test_files(tmp_path: Path) -> None:
    s = scores()
    s.save(tmp_path / "scores.parquet")
    found = Scores.load(tmp_path / "scores.parquet")
    assert all(np.array_equal(getattr(found, f.name), getattr(s, f.name)) for f in fields(s))
    pq.write_table(pa.table({"nll": [1.0]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="no scores of this version"):
        Scores.load(tmp_path / "other.parquet")
