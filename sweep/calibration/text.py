"""Data sets as text: the standard library, local files, files of the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sweep.config.knobs import Data
from sweep.core.errors import UsageError, first_line

PLAIN = (".txt", ".md", ".py", ".rst")
RECORDS = (".jsonl", ".json", ".parquet")  # a record holds a text under the key or column `data.column`
COMPRESSED = {".zst": "zstd", ".gz": "gzip"}  # may end any of them but parquet, which compresses inside
_NOT_LIBRARY = {"test", "tests", "idle_test", "lib2to3", "site-packages"}


def texts(data: Data) -> Iterator[str]:
    """The texts of a data set in a fixed order, at most `data.limit`; empty ones and nulls are left out.

    Files come in the order of their names, records in the order of their file.
    Raises UsageError for what cannot be read."""
    read = (text for file in _files(data) for text in _read(file, data.column) if text)
    return itertools.islice(read, data.limit)


def _files(data: Data) -> list[Path]:
    if data.path:
        return _local_files(Path(data.path).expanduser())
    if data.name == "stdlib":
        return standard_library(data.split)
    return _hub_files(data)


def _local_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(f"data.path={path} does not exist; give a file or a folder")
    files = sorted(p for p in path.rglob("*") if _kind(p) in PLAIN + RECORDS and p.is_file())
    if not files:
        endings = f"{', '.join(PLAIN + RECORDS)}, the first six also with {' or '.join(COMPRESSED)} behind"
        raise UsageError(f"data.path={path} holds no text; allowed: files ending in {endings}")
    return files


def _hub_files(data: Data) -> list[Path]:
    from sweep.core import hub

    if not data.files:
        raise UsageError(f"data={data.name} needs data.files: names or patterns of files of {data.repo}")

    def matching(root: Path) -> list[list[Path]]:
        return [sorted(root.glob(pattern)) for pattern in data.files]

    try:
        root = hub.snapshot(
            str(data.repo), data.revision, data.files, lambda p: all(matching(p)), "data.path", kind="dataset"
        )
    except UsageError as error:
        raise UsageError(f"{error}, or take data=stdlib, which is on every machine") from error
    for pattern, files in zip(data.files, matching(root), strict=True):
        if not files:
            raise UsageError(f"data.files: {data.repo} at revision {data.revision} has no file {pattern}")
    return sorted(set(itertools.chain(*matching(root))))


def standard_library(split: str, root: Path | None = None) -> list[Path]:
    """Source files of the standard library without its tests, sorted by name, of one split.

    A file is held out if the SHA-256 of its relative name is 0 modulo 20, whatever the other files are."""
    root = root or Path(sysconfig.get_paths()["stdlib"])
    names = []
    for directory, below, files in os.walk(root):
        below[:] = set(below) - _NOT_LIBRARY  # site-packages may hold far more than the library
        for file in files:
            name = (Path(directory) / file).relative_to(root)
            if name.suffix == ".py" and _is_heldout(name) == (split == "heldout"):
                names.append(name)
    return [root / name for name in sorted(names, key=lambda n: n.as_posix())]


def _is_heldout(name: Path) -> bool:
    return int(hashlib.sha256(name.as_posix().encode()).hexdigest(), 16) % 20 == 0


def _kind(file: Path) -> str:
    """The suffix that says what a file holds, that of a compression taken off."""
    return Path(file.stem).suffix if file.suffix in COMPRESSED else file.suffix


def _read(file: Path, column: str) -> Iterator[str]:
    try:
        if file.suffix == ".parquet":
            yield from _parquet(file, column)
        elif _kind(file) in (".jsonl", ".json"):
            yield from _json_lines(file, column)
        else:
            with _open(file) as stream:
                yield stream.read().decode(errors="strict")
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text; convert it or leave it out") from None
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{file} cannot be read: {first_line(error)}; it may be cut short") from error


def _open(file: Path) -> io.BufferedReader:
    return io.BufferedReader(pa.input_stream(str(file), compression=COMPRESSED.get(file.suffix)))


def _json_lines(file: Path, column: str) -> Iterator[str]:
    with _open(file) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UsageError(f"{file}, line {number}: no JSON object: {first_line(error)}") from None
            yield _text_of(record, column, f"{file}, line {number}")


def _parquet(file: Path, column: str) -> Iterator[str]:
    table = pq.ParquetFile(file)
    if column not in table.schema_arrow.names:
        raise UsageError(f"{file} has no column {column}; data.column may be: {', '.join(table.schema_arrow.names)}")
    for batch in table.iter_batches(batch_size=1024, columns=[column]):
        for text in batch.column(0).to_pylist():
            yield _text_of({column: text}, column, str(file))


def _text_of(record: object, column: str, where: str) -> str:
    if not isinstance(record, dict) or column not in record:
        keys = ", ".join(map(str, record)) if isinstance(record, dict) else "none, it is no object"
        raise UsageError(f"{where}: no key {column}; data.column may be: {keys}")
    if (text := record[column]) is None:
        return ""  # as empty as an empty one, whatever the file's kind
    if not isinstance(text, str):
        raise UsageError(f"{where}: {column} holds a {type(text).__name__} where text was expected; set data.column")
    return text
