"""Folds put side by side, grown and read in sets, against the values that they hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sweep.quantization import statistics_io
from sweep.quantization.bins import FLOAT32
from sweep.quantization.site_statistics import SiteStatistics, leave_one_out
from sweep.quantization.statistics import Statistics
from tests.distributions import stack
from tests.gradients import differentiated
from tests.plain_sites import plain_site

SAMPLES, N, CHANNELS = 3, 20, 2
DTYPES = (torch.bfloat16, torch.float32)


def drawn(dtype: torch.dtype, folds: int = 4, seed: int = 0) -> torch.Tensor:
    return (torch.randn(folds, SAMPLES, N, CHANNELS, generator=torch.Generator().manual_seed(seed)) * 2).to(dtype)


def of(x: torch.Tensor, folds: list[int], fisher: bool = True) -> SiteStatistics:
    """With squared gradients, 1 + the number of the fold each, and quantiles of texts that tell fold and sample."""
    numbers = np.array(folds, np.float64).reshape(-1, 1, 1, 1)
    site = plain_site(x, folds)
    if fisher:
        gradients = np.sqrt(1 + numbers) * np.ones(tuple(x.shape))
        site = differentiated(site, x, gradients, [10 + fold for fold in folds])
    quantiles = [
        np.full((len(fold), 2, 3), 100.0 * number) + fold.double().numpy().max((1, 2)).reshape(-1, 1, 1)
        for number, fold in zip(folds, x, strict=True)
    ]
    return replace(site, text_alphas=np.array([0.9, 0.99]), text_quantiles=tuple(quantiles))


def numbers(value: Any) -> Iterator[Any]:
    """All arrays and plain values in it, and how they are kept."""
    if isinstance(value, np.ndarray):
        yield str(value.dtype), value.shape, value.tolist()
    elif isinstance(value, tuple):
        for part in value:
            yield from numbers(part)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield field.name
            yield from numbers(getattr(value, field.name))
    else:
        yield value


def same(a: SiteStatistics, b: SiteStatistics) -> None:
    assert list(numbers(a)) == list(numbers(b))


def test_sets_of_folds() -> None:
    assert leave_one_out(3).tolist() == [[True] * 3, [False, True, True], [True, False, True], [True, True, False]]
    site = of(drawn(torch.bfloat16, 3), [0, 1, 2])
    assert site.replicates.members.tolist() == leave_one_out(3).tolist()
    assert site.left_out.members.tolist() == leave_one_out(3).tolist()[1:]
    assert site.growing.members.tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert site.sections.members.tolist() == [[True] * 3, *np.eye(3, dtype=bool).tolist()]
    assert site.sections.members.dtype == bool
    for sets in (site.replicates, site.left_out, site.growing, site.sections):
        assert sets.observed.stack is site.histogram
        assert sets.observed.members is sets.members
        assert sets.observed.n.tolist() == (sets.members.sum(1) * SAMPLES * N * CHANNELS).tolist()


def test_in_float32_all_folds_are_read_in_fine_bins_and_the_others_are_shared_out_to_them() -> None:
    x = drawn(torch.float32)
    site = of(x, [0, 1, 2, 3])
    whole = stack(x.flatten())
    assert site.pooled
    for sets in (site.replicates, site.growing, site.sections, site.left_out):
        assert sets.observed.layout == FLOAT32
        assert sets.observed.bins.tolist() == whole.bins.tolist()
        finer = site.histogram.finer(site.pooled)
        for k, members in enumerate(sets.members):
            expected = whole.counts[0] if members.all() else finer.counts[members].sum(0)
            assert sets.observed.counts[k].tolist() == expected.tolist()
            values = x[torch.from_numpy(members)]
            assert (sets.observed.min[k], sets.observed.max[k]) == (float(values.min()), float(values.max()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_folds_together(dtype: torch.dtype) -> None:
    x = drawn(dtype)
    site, whole = of(x, [0, 1, 2, 3]), stack(x.flatten())
    assert site.total.bins.tolist() == whole.bins.tolist()
    assert site.total.counts.tolist() == whole.counts[0].tolist()
    assert (site.total.min, site.total.max) == (whole.min[0], whole.max[0])
    assert site.prepared_size == 5 * len(whole.bins)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_prepared_for_a_copy_goes_with_it(dtype: torch.dtype) -> None:
    site = of(drawn(dtype), [0, 1, 2, 3])
    copy = site.unprepared()
    same(copy, site)
    copy.replicates.observed.quantile(0.5)
    assert copy.histogram.ascending is not None
    assert not {"ascending", "values"} & {*vars(site.histogram), *vars(site.pooled or site.histogram)}
    if site.pooled:
        assert copy.pooled is not site.pooled
    assert "replicates" in vars(copy)
    assert "replicates" not in vars(site)


@pytest.mark.parametrize("dtype", DTYPES)
def test_folds_side_by_side_are_in_order(dtype: torch.dtype) -> None:
    x = drawn(dtype)
    same(of(x[[1, 3]], [1, 3]) + of(x[[0, 2]], [0, 2]), of(x, [0, 1, 2, 3]))
    same(reduce(add, [of(x[[k]], [k]) for k in (2, 0, 3, 1)]), of(x, [0, 1, 2, 3]))
    plain = [replace(of(x[[k]], [k], fisher=False), text_alphas=np.zeros(0), text_quantiles=()) for k in (1, 0)]
    expected = replace(of(x[[0, 1]], [0, 1], fisher=False), text_alphas=np.zeros(0), text_quantiles=())
    same(plain[0] + plain[1], expected)


def test_what_does_not_belong_together() -> None:
    x = drawn(torch.float32, 2)
    a, b = of(x[[0]], [0]), of(x[[1]], [1])
    for other, why in (
        (of(x, [0, 1]), "fold 0 is on both sides"),
        (of(x[[1]][..., :1], [1]), "the numbers of channels differ"),
        (replace(b, weight_absmax=0.5), "the convolution weights differ"),
        (replace(b, text_alphas=np.array([0.9])), "the quantiles taken of the texts differ"),
        (replace(b, fisher=None), "one side has no squared gradients"),
        (replace(b, pooled=None), "one side has no histogram of all folds together"),
    ):
        with pytest.raises(ValueError, match=rf"^cannot merge: {why}$"):
            a + other
    both = of(x, [0, 1])
    with pytest.raises(ValueError, match=r"^cannot merge: fold 0, 1 is on both sides$"):
        both + both


def later(x: torch.Tensor, folds: list[int]) -> SiteStatistics:
    """All samples but the first of some folds; sums that go on from the first are those of all samples."""
    whole = of(x[folds], folds)
    return replace(of(x[folds, 1:], folds), channel_abs_sum=whole.channel_abs_sum, fisher=whole.fisher)


@pytest.mark.parametrize("some", [[0, 1, 2, 3], [1, 3], [0]], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_folds_grow_by_later_samples_of_some_of_them(dtype: torch.dtype, some: list[int]) -> None:
    x, folds = drawn(dtype), [0, 1, 2, 3]
    grown = of(x[:, :1], folds).grown(later(x, some))
    same(grown, reduce(add, [of(x[[k], : SAMPLES if k in some else 1], [k]) for k in folds]))


def test_gradients_of_earlier_samples_stay() -> None:
    x, folds = drawn(torch.bfloat16), [0, 1, 2, 3]
    earlier, more = of(x[:, :1], folds), later(x, folds)
    assert earlier.grown(replace(more, fisher=None)).fisher is earlier.fisher
    assert replace(earlier, fisher=None).grown(more).fisher is None


def test_what_does_not_grow() -> None:
    x = drawn(torch.float32, 2)
    site = of(x, [0, 1])
    with pytest.raises(ValueError, match=r"^cannot grow: a fold is not there$"):
        site.grown(of(x, [1, 2]))
    for other in (of(x[..., :1], [0, 1]), replace(of(x, [0, 1]), weight_absmax=None)):
        with pytest.raises(ValueError, match=r"^cannot grow: another site$"):
            site.grown(other)


# --- of all sites -----------------------------------------------------------------------------------------------------


def all_sites(x: torch.Tensor, folds: list[int], meta: dict[str, Any] | None = None) -> Statistics:
    """Two layers, the second of which has no gradients."""
    sites = {(0, "a"): of(x, folds), (1, "a"): of(2 * x, folds, fisher=False), (1, "b"): of(x + 1, folds)}
    return Statistics(sites, {"n_layer": 2} if meta is None else meta)


def test_statistics_are_merged_and_grown_site_by_site() -> None:
    x = drawn(torch.bfloat16)
    whole = all_sites(x, [0, 1, 2, 3])
    merged = all_sites(x[:1], [0]) + all_sites(x[1:], [1, 2, 3])
    assert merged.meta == {"n_layer": 2}
    assert list(merged.sites) == list(whole.sites)
    for key, site in whole.sites.items():
        same(merged.sites[key], site)
    alone = Statistics.merge([whole])
    assert alone.meta == whole.meta
    for key, site in whole.sites.items():
        same(alone.sites[key], site)
    others = Statistics({(0, "a"): of(x, [4, 5, 6, 7])}, {"n_layer": 2})
    for other in (others, all_sites(x, [4, 5, 6, 7], {"n_layer": 3})):
        with pytest.raises(ValueError, match=r"^cannot merge statistics of different models or sites$"):
            whole + other
    grown = all_sites(x[:, :1], [0, 1, 2, 3]).grown(replace(all_sites(x[:, 1:], [0, 1, 2, 3]), meta={"new": 1}))
    assert grown.meta == {"new": 1}
    assert [site.samples.tolist() for site in grown.sites.values()] == [[SAMPLES] * 4] * 3
    with pytest.raises(ValueError, match=r"^cannot grow statistics by those of other sites$"):
        whole.grown(others)


def test_parts_of_statistics() -> None:
    x = drawn(torch.bfloat16)
    whole = all_sites(x, [5, 3, 8, 9])
    layer = whole.of_layer(1)
    assert layer.sites == {key: whole.sites[key] for key in ((1, "a"), (1, "b"))}
    assert layer.meta is whole.meta
    sums = whole.abs_sums(8)
    assert {key: v.tolist() for key, v in sums.items()} == {
        key: site.channel_abs_sum[2].tolist() for key, site in whole.sites.items()
    }
    fisher = whole.fisher(8)
    assert list(fisher) == [(0, "a"), (1, "b")]
    assert fisher[0, "a"].tokens.tolist() == [18]


# --- as a file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_keeps_everything(tmp_path: Path, dtype: torch.dtype) -> None:
    x = drawn(dtype)
    without = replace(of(x, [0, 1, 2, 3], fisher=False), text_alphas=np.zeros(0), text_quantiles=(), weight_absmax=None)
    more = replace(all_sites(x, [0, 1, 2, 3]), sites={**all_sites(x, [0, 1, 2, 3]).sites, (2, "c"): without})
    for number, whole in enumerate((more, Statistics({(2, "c"): without}, {"b": 1, "a": 2}))):
        path = tmp_path / f"{number}.parquet"
        whole.save(path)
        read = Statistics.load(path)
        assert (list(read.sites), read.meta) == (list(whole.sites), whole.meta)
        for key, site in whole.sites.items():
            same(read.sites[key], site)


def test_a_million_counts_at_a_time_are_written() -> None:
    """Of folds, of all of them in fine bins, and sums of squared gradients."""

    def sized(folds: int, pooled: int = 0, fisher: int = 0) -> SiteStatistics:
        site = of(drawn(torch.float32), [0, 1, 2, 3])
        assert site.pooled
        assert site.fisher
        zero = np.int32(0)
        return replace(
            site,
            histogram=replace(site.histogram, counts=np.broadcast_to(zero, (1, folds))),
            pooled=replace(site.pooled, counts=np.broadcast_to(zero, (1, pooled))) if pooled else None,
            fisher=replace(site.fisher, weights=np.broadcast_to(np.float64(0), (1, fisher))) if fisher else None,
        )

    million = 1 << 20
    sites = {
        (-2, "less"): sized(million - 1),
        (-1, "with it"): sized(1),
        (0, "one"): sized(million),
        (1, "all"): sized(million - 2, 1, 1),
        (2, "less"): sized(million - 3, 1, 1),
        (3, "with it"): sized(1),
        (4, "less"): sized(million - 1),
    }
    assert [[layer for layer, _ in keys] for keys in statistics_io._batches(sites)] == [[-2, -1], [0], [1], [2, 3], [4]]
    assert list(statistics_io._batches({})) == []
    assert [len(keys) for keys in statistics_io._batches({(0, "one"): sized(million)})] == [1]


def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.parquet"
    monkeypatch.setattr(statistics_io, "SCHEMA", 2)
    Statistics({(0, "a"): of(drawn(torch.bfloat16), [0, 1, 2, 3], fisher=False)}, {}).save(path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=rf"^{path}: statistics of schema 2, this version reads 3 and 4$"):
        Statistics.load(path)
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    with pytest.raises(ValueError, match=r"statistics of schema None"):
        Statistics.load(path)


def test_the_file_is_what_earlier_versions_wrote(tmp_path: Path) -> None:
    """zstd, no dictionaries, columns of squared gradients only where there are any, and the schema that says so."""
    for name, fisher, schema in (
        ("with", True, b'{"n": 1, "schema": 4}'),
        ("without", False, b'{"n": 1, "schema": 3}'),
    ):
        Statistics({(0, "a"): of(drawn(torch.float32), [0, 1, 2, 3], fisher)}, {"n": 1}).save(tmp_path / name)
        file = pq.ParquetFile(tmp_path / name)
        assert file.schema_arrow.metadata[b"sweep"] == schema
        group = file.metadata.row_group(0)
        columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
        assert ("fisher_bins.list.element" in columns) is fisher
        for path, column in columns.items():
            encoding = statistics_io._ENCODINGS.get(path, "PLAIN")
            assert set(column.encodings) <= {encoding, "RLE"}, path
            assert encoding in column.encodings
            assert column.compression == "ZSTD"
