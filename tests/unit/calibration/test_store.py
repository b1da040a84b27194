"""The store: what is put in comes out, whole, or not at all."""

from __future__ import annotations

import json
import multiprocessing
import time
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest

from sweep.calibration.cache import STATISTICS, CalibrationStore
from sweep.core.errors import UsageError
from sweep.core.store import MANIFEST, Damaged, verify
from sweep.core.store_key import Key, differences
from sweep.quantization.bins import FLOAT32
from sweep.quantization.histogram import Histogram
from sweep.quantization.site_statistics import SiteStatistics
from sweep.quantization.statistics import Statistics

KEY = Key("tiny-text", {"schema": 1, "model": "sha256:1", "folds": 2})


def statistics(seed: int = 0, folds: tuple[int, ...] = (0, 1)) -> Statistics:
    random = np.random.default_rng(seed)
    parts = [Histogram.from_dense(FLOAT32, random.integers(0, 3, 65_536), -1.0, 1.0) for _ in folds]
    k = len(folds)
    site = SiteStatistics(
        folds=np.array(folds, np.int32),
        samples=np.full(k, 3, np.int64),
        histogram=Histogram.stack([part.coarser(FLOAT32.of_folds) for part in parts]),
        channel_absmax=random.random((k, 5)).astype(np.float32),
        channel_abs_sum=random.random((k, 5)),
        channel_text_mean_max=random.random((k, 5)).astype(np.float32),
        weight_absmax=0.5,
        pooled=reduce(add, [Histogram.stack([part]) for part in parts]),
    )
    return Statistics({(0, "x_conv_out"): site}, {"n_layer": 1})


STACKS = ("histogram", "pooled", "fisher", "text_quantiles")


def same(a: Statistics, b: Statistics) -> bool:
    if a.sites.keys() != b.sites.keys() or a.meta != b.meta:
        return False
    for key, x in a.sites.items():
        y = b.sites[key]
        pairs = [(getattr(x, n), getattr(y, n)) for n in type(x).__dataclass_fields__ if n not in STACKS]
        pairs += list(zip(x.text_quantiles, y.text_quantiles, strict=True))
        for p, q in ((x.histogram, y.histogram), (x.pooled, y.pooled), (x.fisher, y.fisher)):
            if p is None or q is None:
                pairs.append((p is None, q is None))
            else:
                pairs += [(getattr(p, n), getattr(q, n)) for n in type(p).__dataclass_fields__]
        if not all(np.array_equal(p, q) for p, q in pairs):
            return False
    return True


def test_what_is_written_is_read(tmp_path: Path) -> None:
    store, written = CalibrationStore(tmp_path / "store"), statistics()
    assert KEY not in store
    assert store.read(KEY) is None
    entry = store.write(KEY, written)
    assert KEY in store
    assert entry.name == str(KEY) == f"tiny-text-{KEY.hash[:16]}"
    found = store.read(KEY)
    assert found is not None
    assert same(found, written)
    assert json.loads((entry / MANIFEST).read_text())["preimage"] == KEY.preimage
    assert store.entries() == [entry]
    assert not list(store.root.glob(".*work"))


def test_the_last_entry_is_read_once_but_never_after_it_changed(tmp_path: Path) -> None:
    store = CalibrationStore(tmp_path)
    entry = store.write(KEY, statistics())
    assert store.read(KEY) is store.read(KEY)
    content = bytearray((entry / STATISTICS).read_bytes())
    content[len(content) // 2] ^= 1
    (entry / STATISTICS).write_bytes(content)
    with pytest.raises(Damaged):
        store.read(KEY)


@pytest.mark.parametrize("name", [MANIFEST, STATISTICS])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "missing"])
def test_damage_is_named_and_moved_aside(tmp_path: Path, name: str, damage: str) -> None:
    store = CalibrationStore(tmp_path)
    entry = store.write(KEY, statistics())
    file = entry / name
    content = bytearray(file.read_bytes())
    if damage == "flip":
        at = content.index(b"sha256:1") + 7 if name == MANIFEST else len(content) // 3
        content[at] ^= 1
    file.write_bytes({"flip": content, "truncate": content[:-7]}.get(damage, b""))
    if damage == "missing":
        file.unlink()
    with pytest.raises(Damaged, match=str(entry)):
        store.read(KEY)
    aside = store.set_aside(KEY)
    assert aside.name == f"{KEY}.damaged-1"
    assert store.read(KEY) is None
    assert store.entries() == []
    store.write(KEY, statistics())
    assert store.set_aside(KEY).name == f"{KEY}.damaged-2"


def test_every_flipped_bit_of_the_statistics_is_found(tmp_path: Path) -> None:
    entry = CalibrationStore(tmp_path).write(KEY, statistics())
    sound = (entry / STATISTICS).read_bytes()
    for bit in np.random.default_rng(0).integers(0, 8 * len(sound), 100):
        content = bytearray(sound)
        content[bit // 8] ^= 1 << (bit % 8)
        (entry / STATISTICS).write_bytes(content)
        with pytest.raises(Damaged):
            verify(entry)


def test_a_collision_shows_what_differs(tmp_path: Path) -> None:
    store = CalibrationStore(tmp_path)
    entry = store.write(KEY, statistics())

    class Colliding(Key):
        @property
        def hash(self) -> str:  # type: ignore[override]
            return KEY.hash

    other = Colliding(KEY.prefix, {**KEY.preimage, "folds": 4})
    with pytest.raises(UsageError, match="folds: 2 there, 4 here") as error:
        store.read(other)
    assert str(entry) in str(error.value)


def test_the_nearest_entry_tells_what_changed(tmp_path: Path) -> None:
    store = CalibrationStore(tmp_path)
    assert store.nearest(KEY) is None
    store.write(replace(KEY, preimage={**KEY.preimage, "folds": 4, "model": "sha256:2"}), statistics())
    near = store.write(replace(KEY, preimage={**KEY.preimage, "folds": 8}), statistics())
    assert store.nearest(KEY) == f"{near.name} differs in folds: 8 there, 2 here"
    assert differences({"a": 1}, {"b": 2}) == ["a: 1 there, None here", "b: None there, 2 here"]


def _hold(root: Path, held: object) -> None:
    with CalibrationStore(root).locked(KEY):
        held.set()  # type: ignore[attr-defined]
        time.sleep(60)


def test_a_dead_holder_does_not_block(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fork = multiprocessing.get_context("fork")
    held = fork.Event()
    holder = fork.Process(target=_hold, args=(tmp_path, held))
    holder.start()
    assert held.wait(10)
    waiter = fork.Process(target=_wait, args=(tmp_path,))
    waiter.start()
    time.sleep(0.5)
    assert waiter.is_alive()
    holder.kill()
    waiter.join(10)
    assert waiter.exitcode == 0
    assert "another process is at it; waiting" in capfd.readouterr().err


def _wait(root: Path) -> None:
    with CalibrationStore(root).locked(KEY):
        pass


def test_a_store_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = CalibrationStore(tmp_path / "file" / "store")
    with pytest.raises(UsageError, match="choose another store=DIRECTORY"), store.locked(KEY):
        pass
    with pytest.raises(UsageError, match="is not stored"):
        store.write(KEY, statistics())
