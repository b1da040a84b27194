"""Data sets of every kind: the texts they give, their order, and what is said when they are not right."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweep.calibration import tokens
from sweep.calibration.text import texts
from sweep.config.knobs import Calibration, Data
from sweep.core import hub
from sweep.core.errors import UsageError

TEXTS = ["first text\n", "zweiter Text, mit Umläuten: äöü", "third"]
RECORDS = [{"text": t, "meta": {"n": i}} for i, t in enumerate(TEXTS)]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def local(path: Path, **settings: Any) -> Data:
    return Data("text", str(path), **settings)


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.json", LINES),
        ("a.jsonl.gz", gzip.compress(LINES)),
        ("a.jsonl.zst", zstd(LINES)),
        ("blank.jsonl", b"\n" + LINES.replace(b"}\n", b"}\n\n")),
    ],
)
def test_records_of_json_lines(tmp_path: Path, name: str, content: bytes) -> None:
    assert list(texts(local(put(tmp_path / name, content)))) == TEXTS


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [*TEXTS, None, ""], "id": range(5)}), tmp_path / "a.parquet")
    assert list(texts(local(tmp_path / "a.parquet"))) == TEXTS


def test_a_null_is_an_empty_text_in_every_kind_of_file(tmp_path: Path) -> None:
    lines = LINES + b'{"text": null}\n{"text": ""}\n'
    assert list(texts(local(put(tmp_path / "a.jsonl", lines)))) == TEXTS
    pq.write_table(pa.table({"text": pa.array([None, *TEXTS])}), tmp_path / "a.parquet")
    assert list(texts(local(tmp_path / "a.parquet"))) == TEXTS


def test_plain_text_also_compressed(tmp_path: Path) -> None:
    put(tmp_path / "b.txt.zst", zstd(TEXTS[1].encode()))
    put(tmp_path / "c.txt.gz", gzip.compress(TEXTS[2].encode()))
    put(tmp_path / "a.txt", TEXTS[0].encode())
    put(tmp_path / "ignored.bin", b"\0")
    assert list(texts(local(tmp_path))) == TEXTS


def test_other_columns_and_a_limit(tmp_path: Path) -> None:
    file = put(tmp_path / "a.jsonl", LINES.replace(b'"text"', b'"content"'))
    assert list(texts(local(file, column="content"))) == TEXTS
    assert list(texts(local(file, column="content", limit=2))) == TEXTS[:2]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", LINES + b"{\n", ["a.jsonl, line 4", "no JSON object"]),
        ("a.jsonl", b"[1]\n", ["line 1", "no object"]),
        ("a.jsonl", b'{"content": "x"}\n', ["no key text", "data.column may be: content"]),
        ("a.jsonl", b'{"text": 3}\n', ["text holds a int", "data.column"]),
        ("a.parquet", b"PAR1", ["a.parquet cannot be read"]),
        ("a.jsonl.zst", zstd(LINES)[:40], ["a.jsonl.zst cannot be read", "cut short"]),
        ("a.jsonl.gz", b"no gzip", ["a.jsonl.gz cannot be read"]),
        ("a.txt", b"\xff\xfe", ["not UTF-8"]),
    ],
)
def test_damage_is_named(tmp_path: Path, name: str, content: bytes, said: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        list(texts(local(put(tmp_path / name, content))))
    for text in said:
        assert text in str(caught.value)


def test_a_parquet_file_without_the_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content": TEXTS}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="no column text"):
        list(texts(local(tmp_path / "a.parquet")))


def byte_ids(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8).astype(np.int64)


def test_quambas_recipe_is_the_first_texts_in_order_truncated(tmp_path: Path) -> None:
    file = put(tmp_path / "val.jsonl.zst", zstd(LINES))
    pile = Data("pile", str(file), repo="monology/pile-uncopyrighted", files=["val.jsonl.zst"], cut="texts")
    found = tokens.load(pile, byte_ids, Calibration(samples=3, seqlen=11, folds=1, seed=5))
    assert [bytes(w.astype(np.uint8)) for w in found.windows] == [t.encode()[:11] for t in TEXTS]
    assert [len(w) for w in found.windows] == [11, 11, 5]
    assert found.count == 27
    with pytest.raises(UsageError, match="3 texts where"):
        tokens.load(pile, byte_ids, Calibration(samples=4, seqlen=11, folds=1))


def test_a_separator_joins_texts_before_they_are_tokenized(tmp_path: Path) -> None:
    file = put(tmp_path / "a.jsonl", LINES)
    calls: list[str] = []

    def encode(text: str) -> np.ndarray:
        calls.append(text)
        return byte_ids(text)

    tokens.load(local(file, separator="\n\n"), encode, Calibration(samples=1, seqlen=4, folds=1))
    assert calls == ["\n\n".join(TEXTS)]


# --- the Hub, and its absence ------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the Hub in the layout its client has: refs/REVISION names a commit, snapshots/COMMIT holds files."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def cached(cache: Path, folder: str, files: dict[str, bytes]) -> Path:
    root = cache / folder
    snapshot = root / "snapshots" / ("c0ffee" * 7)[:40]
    (root / "refs").mkdir(parents=True)
    (root / "refs/main").write_text(snapshot.name)
    for name, content in files.items():
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_bytes(content)
    return snapshot


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Hub that takes every connection and never answers, as behind many a firewall."""
    from huggingface_hub import constants

    server = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def accept() -> None:
        try:
            while True:
                held.append(server.accept()[0])
        except OSError:
            return

    threading.Thread(target=accept, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
    yield
    server.close()
    for connection in held:
        connection.close()


WIKITEXT = Data("wikitext2", repo="Salesforce/wikitext", files=["raw/train-*.jsonl"])


def test_a_cached_data_set_needs_no_network(cache: Path, silence: None) -> None:
    files = {"raw/train-1.jsonl": LINES[: LINES.index(b"\n") + 1], "raw/train-2.jsonl": LINES, "raw/test.jsonl": b"{"}
    snapshot = cached(cache, "datasets--Salesforce--wikitext", files)
    assert list(texts(WIKITEXT)) == [TEXTS[0], *TEXTS]
    assert hub.commit(snapshot) == snapshot.name


@pytest.mark.slow
def test_without_a_network_and_without_a_cache_one_line_within_ten_seconds(cache: Path, silence: None) -> None:
    begin = time.perf_counter()
    with pytest.raises(UsageError) as caught:
        list(texts(WIKITEXT))
    assert time.perf_counter() - begin < 10
    for text in ("huggingface.co/datasets/Salesforce/wikitext", "cannot be reached", "set data.path to the copy"):
        assert text in str(caught.value)


def test_a_cache_that_lacks_a_file_is_not_taken_for_whole(cache: Path, silence: None) -> None:
    cached(cache, "datasets--Salesforce--wikitext", {"raw/test.jsonl": LINES})
    with pytest.raises(UsageError, match="cannot be reached"):
        list(texts(WIKITEXT))
