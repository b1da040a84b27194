"""From text to token ids with a model's own tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweep.core import hub
from sweep.core.errors import UsageError, first_line
from sweep.models.refusals import refuse_file

Ids = NDArray[np.integer[Any]]  # 32 bits wide where there are many
Encode = Callable[[str], Ids]
Count = Callable[[Ids], int]  # bytes of the text that token ids stand for

FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model")
_LARGEST_SPECIAL = 3  # ids that ByT5 puts before the bytes: padding, end, unknown


def encoder(source: str | Path, revision: str = "main") -> Encode:
    """The tokenizer in a directory, a tokenizer.json, a SentencePiece *.model, or a repository of the Hub.

    No special tokens are added. Raises UsageError for a directory without a tokenizer."""
    return _open(source, revision)[0]


def counter(source: str | Path, revision: str = "main") -> Count:
    """Counter of the UTF-8 bytes that ids decode to, for the same tokenizer: part of a character counts as U+FFFD, 3.

    Raises UsageError for a directory without a tokenizer."""
    return _open(source, revision)[1]


def _open(source: str | Path, revision: str) -> tuple[Encode, Count]:
    path = Path(source).expanduser()
    if not path.exists():
        if isinstance(source, Path) or source.count("/") != 1 or path.suffix in (".json", ".model"):
            raise UsageError(f"model.tokenizer={source} does not exist; give a directory, tokenizer.json or *.model")
        path = hub.snapshot(source, revision, FILES, is_in, "model.tokenizer")
    file = path if path.is_file() else _main_file(path)
    if file is None:
        raise UsageError(f"{path} holds no tokenizer; set model.tokenizer to a directory, tokenizer.json or *.model")
    try:
        for part in _parts(file):
            refuse_file(part)
        return _sentencepiece(file) if file.suffix == ".model" else _tokenizers(file)
    except (ImportError, UsageError):
        raise
    except Exception as error:  # transformers, tokenizers and sentencepiece have errors of their own
        raise UsageError(f"{file} is no usable tokenizer: {first_line(error)}") from error


def is_in(path: Path) -> bool:
    """True if a directory holds a tokenizer."""
    return _main_file(path) is not None


def byte_encoder(vocabulary: int) -> Encode:
    """Bytes as tokens, for random weights, which know no words: byte + 3, as ByT5 has it, modulo the vocabulary."""
    token = ((np.arange(256) + _LARGEST_SPECIAL) % vocabulary).astype(np.int32)
    return lambda text: token[np.frombuffer(text.encode(), np.uint8)]


def checked(encode: Encode, vocabulary: int, what: str) -> Encode:
    """`encode`, with a UsageError for a token that the model has no embedding for."""

    def within(text: str) -> Ids:
        ids = encode(text)
        if len(ids) and (largest := int(ids.max())) >= vocabulary:
            raise UsageError(
                f"the tokenizer gives token {largest}, but {what} has a vocabulary of {vocabulary}: "
                "they do not belong together; set model.tokenizer"
            )
        return ids

    return within


def _parts(file: Path) -> list[Path]:
    """The files that reading a tokenizer comes across."""
    if file.name != "tokenizer_config.json":
        return [file]
    return sorted(p for pattern in FILES for p in file.parent.glob(pattern) if p.is_file() and p.stat().st_size)


def _main_file(path: Path) -> Path | None:
    """The file a tokenizer is read from."""
    for name in ("tokenizer_config.json", "tokenizer.json"):
        if (path / name).is_file():
            return path / name
    return next(iter(sorted(path.glob("*.model"))), None)


def _tokenizers(file: Path) -> tuple[Encode, Count]:
    if file.name == "tokenizer_config.json":
        said = json.loads(file.read_text(encoding="utf-8"))
        if said.get("tokenizer_class") == "ByT5Tokenizer":
            # what transformers' ByT5Tokenizer does, a thousand times faster; a test holds them together
            return byte_encoder(1 << 62), len
        import transformers

        transformers.utils.logging.set_verbosity_error()
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, trust_remote_code=False)
        except Exception as error:
            if "auto_map" not in said and "custom code" not in str(error):
                raise
            raise UsageError(
                f"{file}: {said.get('tokenizer_class', 'its class')} is code that comes with the checkpoint (remote "
                "code), which is never run; set model.tokenizer to a tokenizer.json, a *.model or a repository"
            ) from error
        return (
            lambda text: np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], np.int32),
            lambda ids: len(tokenizer.decode(ids, clean_up_tokenization_spaces=False).encode()),
        )
    import tokenizers

    plain = tokenizers.Tokenizer.from_file(str(file))
    plain.no_truncation()
    return (
        lambda text: np.asarray(plain.encode(text, add_special_tokens=False).ids, np.int32),
        lambda ids: len(plain.decode(ids.tolist(), skip_special_tokens=False).encode()),
    )


def _sentencepiece(file: Path) -> tuple[Encode, Count]:
    try:
        import sentencepiece
    except ImportError:
        raise UsageError(f"{file} is a SentencePiece model: pip install sentencepiece") from None
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(file))
    return lambda text: np.asarray(pieces.encode(text), np.int32), lambda ids: len(pieces.decode(ids.tolist()).encode())
