"""The tokenizer of a run: trained once, kept, and never read half-written."""

import json
import threading
from pathlib import Path

import pytest

from jaxencoder.text import cache, tokenizer_cache
from jaxencoder.text.config import DataConfig, TokenizerConfig
from jaxencoder.text.tokenizer_cache import load_or_train
from jaxencoder.text.tokenizers.training import train_tokenizer

CONFIG = TokenizerConfig(vocab_size=40)


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    source = tmp_path / "text.jsonl"
    source.write_text("".join(json.dumps({"text": "the cat sat", "other": "on a mat"}) + "\n" for _ in range(20)))
    return DataConfig(train=(str(source),), cache=str(tmp_path / "cache"))


@pytest.fixture
def trainings(monkeypatch) -> list[TokenizerConfig]:
    seen: list[TokenizerConfig] = []

    def counted(texts, config):
        seen.append(config)
        return train_tokenizer(texts, config)

    monkeypatch.setattr(tokenizer_cache, "train_tokenizer", counted)
    return seen


def test_trained_once(data: DataConfig, trainings) -> None:
    first, second = load_or_train(CONFIG, data), load_or_train(CONFIG, data)
    assert first.fingerprint == second.fingerprint == train_tokenizer(["the cat sat"] * 20, CONFIG).fingerprint
    assert len(trainings) == 1


def test_pairs_are_read_too(data: DataConfig) -> None:
    both = DataConfig(train=data.train, cache=data.cache, pair_field="other")
    assert load_or_train(CONFIG, both).fingerprint != load_or_train(CONFIG, data).fingerprint


def test_aligned_texts_are_mixed_with_single_ones(data: DataConfig, tmp_path: Path) -> None:
    """Both texts of a pair train the tokenizer, and the texts of a source without pairs."""
    for name, text in (("a.txt", "a quick fox\n" * 9), ("b.txt", "ein flinker Fuchs\n" * 9)):
        (tmp_path / name).write_text(text)
    aligned = f"aligned:{tmp_path}/a.txt|{tmp_path}/b.txt"
    tokenizer = load_or_train(CONFIG, DataConfig(train=(aligned, data.train[0]), cache=data.cache))
    texts = [*["a quick fox", "ein flinker Fuchs"] * 9, *["the cat sat"] * 20]
    assert tokenizer.fingerprint == train_tokenizer(texts, CONFIG).fingerprint


def test_other_text_or_settings_give_another(data: DataConfig, trainings) -> None:
    load_or_train(CONFIG, data)
    load_or_train(TokenizerConfig(vocab_size=30), data)
    source = Path(data.train[0])
    source.write_text(source.read_text() * 2)
    load_or_train(CONFIG, data)
    assert len(trainings) == 3


def test_a_path_is_loaded(data: DataConfig, tmp_path: Path, trainings) -> None:
    loaded = train_tokenizer(["something else"] * 9, CONFIG)
    loaded.save(tmp_path / "loaded")
    path = TokenizerConfig(path=str(tmp_path / "loaded"))
    assert load_or_train(path, data).fingerprint == loaded.fingerprint and not trainings
    with pytest.raises(OSError, match="nowhere"):
        load_or_train(TokenizerConfig(path="nowhere"), data)


def test_two_at_once_train_one(data: DataConfig, trainings) -> None:
    threads = [threading.Thread(target=load_or_train, args=(CONFIG, data)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trainings) == 1


def test_interrupted(data: DataConfig, monkeypatch) -> None:
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache.os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            load_or_train(CONFIG, data)
    folder = Path(data.cache) / "tokenizers"
    assert [path.suffix for path in folder.iterdir()] == [".lock"]
    assert load_or_train(CONFIG, data).vocab_size <= 40


def test_cache_that_is_a_file(data: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(OSError):
        load_or_train(CONFIG, data)


def test_remote_cache(data: DataConfig, tmp_path: Path, monkeypatch) -> None:
    """Rows go to an object store; a tokenizer stays on the local disk."""
    monkeypatch.setenv("JAXENCODER_CACHE", str(tmp_path / "local"))
    monkeypatch.chdir(tmp_path)
    load_or_train(CONFIG, DataConfig(train=data.train, cache="gs://bucket/prefix"))
    assert len(list((tmp_path / "local" / "tokenizers").iterdir())) == 2 and not (tmp_path / "gs:").exists()


def test_cache_folder(monkeypatch, tmp_path: Path) -> None:
    assert cache.cache_folder(DataConfig(cache="here")) == Path("here")
    monkeypatch.setenv("JAXENCODER_CACHE", str(tmp_path))
    assert cache.cache_folder(DataConfig()) == tmp_path
    monkeypatch.delenv("JAXENCODER_CACHE")
    assert cache.cache_folder(DataConfig()).parts[-2:] == (".cache", "jaxencoder")
