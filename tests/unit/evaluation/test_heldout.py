"""Held-out text: enough of it, none of it calibrated on, and the bytes that it stands for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from sweep.calibration import tokens
from sweep.config.config import Config
from sweep.config.knobs import Calibration, Data, Evaluate, Model
from sweep.core.errors import UsageError
from sweep.evaluation import heldout
from sweep.models import load, tokenizer

TINY = Model("tiny", "pkg://sweep/models/tiny")


def config(data: Data, seed: int = 0, samples: int = 20, other: str | None = None) -> Config:
    return Config(TINY, data, Calibration(samples, 32, 2, 4, seed), evaluate=Evaluate(samples=7, data=other))


def seen(c: Config) -> set[bytes]:
    return {w.tobytes() for w in tokens.load(c.data, load.encoder(c.model), c.calibration).windows}


@pytest.fixture
def letters(tmp_path: Path) -> Data:
    text = np.random.default_rng(0).integers(97, 123, 32 * 40, dtype=np.uint8)
    (tmp_path / "text.txt").write_bytes(text.tobytes())
    return Data("text", str(tmp_path / "text.txt"))


def test_of_the_standard_library_it_is_its_heldout_files_whatever_was_calibrated_on() -> None:
    first = heldout.text(config(Data("stdlib")))
    assert [len(w) for w in first.tokens.windows] == [32] * 7
    assert first.bytes.tolist() == [31] * 7
    text = "".join(p.read_text(errors="replace") for p in heldout_files())
    library = load.encoder(TINY)(text).astype(np.int64)  # as windows are
    starts = np.lib.stride_tricks.sliding_window_view(library, 32)[::32]
    assert {w.tobytes() for w in first.tokens.windows} <= {w.tobytes() for w in starts}
    for other in (config(Data("stdlib"), seed=3), config(Data("stdlib"), samples=9)):
        assert heldout.text(other).tokens.sha256 == first.tokens.sha256
    asked = heldout.text(config(Data("text", __file__), other="stdlib"))
    assert asked.tokens.sha256 == first.tokens.sha256


def heldout_files() -> list[Path]:
    from sweep.calibration.text import standard_library

    return standard_library("heldout")


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("samples", [4, 33])
@pytest.mark.parametrize("cut", ["windows", "texts"])
def test_of_other_data_it_is_what_follows(letters: Data, tmp_path: Path, seed: int, samples: int, cut: str) -> None:
    data = replace(letters, cut=cut)
    if cut == "texts":
        lines = [f'{{"text": "{number:<40}"}}\n' for number in range(45)]
        (tmp_path / "lines.jsonl").write_text("".join(lines))
        data = replace(data, path=str(tmp_path / "lines.jsonl"))
    c = config(data, seed, samples)
    text = heldout.text(c)
    assert len({w.tobytes() for w in text.tokens.windows} - seen(c)) == len(text.tokens.windows) == 7


def test_heldout_text_of_the_heldout_split_is_disjoint_too() -> None:
    c = config(Data("stdlib", split="heldout"), seed=5)
    assert not {w.tobytes() for w in heldout.text(c).tokens.windows} & seen(c)


def test_too_little_is_an_error(letters: Data) -> None:
    with pytest.raises(UsageError, match="40 windows"):
        heldout.text(config(letters, samples=34))


def test_another_file(letters: Data, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("0123456789" * 40)
    text = heldout.text(config(letters, other=str(tmp_path / "other.txt")))
    assert set(np.concatenate(text.tokens.windows) - 3) == set(b"0123456789")
    for a, b in ((letters.path, str(tmp_path)), (str(tmp_path), letters.path)):
        with pytest.raises(UsageError, match="overlaps"):
            heldout.text(config(replace(letters, path=a), other=b))
    # the calibration's own file once more: what follows in it
    c = config(letters, other=letters.path)
    assert not {w.tobytes() for w in heldout.text(c).tokens.windows} & seen(c)


def test_bytes_of_word_pieces_are_those_of_the_text(tmp_path: Path) -> None:
    import transformers

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        ["def silu(x): return x the the"],
        tokenizers.trainers.BpeTrainer(
            vocab_size=290, show_progress=False, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet
        ),
    )
    made.save(str(tmp_path / "tokenizer.json"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(tmp_path / "folder")
    for source in (tmp_path / "tokenizer.json", tmp_path / "folder"):
        encode, count = tokenizer.encoder(source), tokenizer.counter(source)
        for text in ("def silu(x): return x", "  two  spaces , and a comma .", "the the", "<|endoftext|>", "é – 漢"):
            assert count(encode(text)) == len(text.encode()), (source, text)


@pytest.mark.parametrize("seqlen", [1, 32])
def test_texts_of_one_token_have_nothing_to_predict(tmp_path: Path, seqlen: int) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 40)
    asked = config(Data("text", str(tmp_path / "a.jsonl"), cut="texts"))
    with pytest.raises(UsageError, match="none of the 7 samples to evaluate on has a second token"):
        heldout.text(replace(asked, calibration=replace(asked.calibration, seqlen=seqlen)))


def test_it_needs_no_gradients_of_a_method_that_weighs_by_them() -> None:
    plain = config(Data("stdlib"))
    weighing = replace(plain, method="loss", calibration=replace(plain.calibration, fisher=20))
    assert heldout.text(weighing).tokens.sha256 == heldout.text(plain).tokens.sha256
