"""`model=130m` and `model=hf` end to end: repositories come over HTTP from a Hub on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hub_server
import layouts
import numpy as np
import pytest
import sentencepiece
import tokenizers
import torch

from sweep.config import knobs
from sweep.core.errors import UsageError
from sweep.models import load, tokenizer

MODEL = knobs.Model("130m", repo="state-spaces/mamba2-130m", tokenizer="EleutherAI/gpt-neox-20b")
TEXT = "def silu(x):\n    return x / (1 + exp(-x))\n" * 9


def word_pieces() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=90, show_progress=False, special_tokens=["<|endoftext|>"])
    made.train_from_iterator([TEXT], trainer)
    return made


@pytest.fixture
def requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    from huggingface_hub import constants

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "hashes"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    layouts.mamba_ssm_bin(checkpoint, layouts.MAMBA2, layouts.tensors(layouts.network(layouts.MAMBA2)))
    repositories = {
        "models/state-spaces/mamba2-130m": {p.name: p.read_bytes() for p in checkpoint.iterdir()}
        | {"README.md": b"not wanted"},
        "models/EleutherAI/gpt-neox-20b": {"tokenizer.json": word_pieces().to_str().encode(), "model.bin": b"20 GB"},
    }
    asked: list[str] = []
    with hub_server.serve(repositories, asked) as endpoint:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield asked


def test_weights_and_tokenizer_come_from_their_repositories(requests: list[str], tmp_path: Path) -> None:
    model = load.load(MODEL, "cpu", "float32")
    expected = layouts.network(layouts.MAMBA2).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.lm.state_dict().items())
    assert np.array_equal(load.encoder(MODEL)(TEXT), word_pieces().encode(TEXT).ids)
    assert load.origin(MODEL)["commit"] == hub_server.COMMIT
    assert not [line for line in requests if "README" in line or "model.bin" in line.replace("pytorch_model.bin", "")]
    # once cached, nothing is asked of the network, and a local copy is the same network
    del requests[:]
    there = load.identity(MODEL)
    load.encoder(MODEL)
    assert requests == []
    assert load.identity(knobs.Model("copy", str(tmp_path / "checkpoint"))) == there


def test_what_is_not_there_is_named(requests: list[str]) -> None:
    for model, said in (
        (knobs.Model("x", repo=MODEL.repo, revision="v9"), "has no revision v9"),
        (knobs.Model("x", repo="state-spaces/mamba9"), "state-spaces/mamba9 does not exist or is private"),
        (knobs.Model("x", repo="no repository at all"), "is no repository of the Hub"),
    ):
        with pytest.raises(UsageError, match=said):
            load.identity(model)


# --- tokenizers ---------------------------------------------------------------------------------------


def test_a_sentencepiece_model(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text(TEXT)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"), model_prefix=str(tmp_path / "pieces"), vocab_size=24, minloglevel=2
    )
    expected = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "pieces.model")).encode(TEXT)
    for source in (tmp_path / "pieces.model", tmp_path):  # named, or beside a checkpoint as the 8b has it
        assert np.array_equal(tokenizer.encoder(source)(TEXT), expected)


def test_a_directory_as_transformers_saves_it(tmp_path: Path) -> None:
    import transformers

    transformers.PreTrainedTokenizerFast(tokenizer_object=word_pieces()).save_pretrained(tmp_path)
    assert np.array_equal(tokenizer.encoder(tmp_path)(TEXT), word_pieces().encode(TEXT).ids)


def test_bytes_as_byt5_has_them() -> None:
    import transformers

    text = "naïve ∀x\n\t\x00 €"
    expected = transformers.ByT5Tokenizer()(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.byte_encoder(384)(text).tolist() == expected


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    settings = layouts.MAMBA2 | {"vocab_size": 17}  # in 32 rows
    layouts.mamba_ssm_bin(tmp_path, settings, {"backbone.embeddings.weight": torch.ones(1)})
    (tmp_path / "tokenizer.json").write_text(word_pieces().to_str())
    with pytest.raises(UsageError, match="vocabulary of 32: they do not belong together; set model"):
        load.encoder(knobs.Model("local", str(tmp_path)))(TEXT)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    layouts.mamba_ssm_bin(tmp_path, layouts.MAMBA2, {"backbone.embeddings.weight": torch.ones(1)})
    with pytest.raises(UsageError, match="holds no tokenizer; set model"):
        load.encoder(knobs.Model("local", str(tmp_path)))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match="is no usable tokenizer"):
        load.encoder(knobs.Model("local", str(tmp_path)))
    with pytest.raises(UsageError, match="does not exist; give a directory"):
        load.encoder(knobs.Model("local", str(tmp_path), tokenizer=str(tmp_path / "elsewhere.model")))


def test_random_weights_read_bytes() -> None:
    drawn = knobs.Model("130m", geometry=layouts.MAMBA2, weights="random", tokenizer="EleutherAI/gpt-neox-20b")
    ids = load.encoder(drawn)(TEXT)
    assert len(ids) == len(TEXT)
    assert ids.max() < 97
