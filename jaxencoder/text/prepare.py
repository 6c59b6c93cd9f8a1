"""The tokenizer of a run: loaded, or trained once on the run's own training text and kept for the next run."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import filelock

from jaxencoder.text.config import DataConfig, TokenizerConfig
from jaxencoder.text.sources import fingerprint, pair_fields, read
from jaxencoder.text.store import is_remote
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.tokenizers.training import train_tokenizer


def load_or_train(config: TokenizerConfig, data: DataConfig) -> Tokenizer:
    """The tokenizer at `config.path`, or the one that the training sources give, from the cache if it is there.

    Raises:
        ValueError, OSError: there is no tokenizer at the path, or no text to train one on.
    """
    if config.path:
        return Tokenizer.load(config.path)
    sources = [fingerprint(source) for source in data.train]
    key = json.dumps([asdict(config), sources, data.text_field, data.pair_field, data.text_unit])
    cache = cache_folder(DataConfig() if is_remote(data.cache) else data)
    folder = cache / "tokenizers" / hashlib.sha256(key.encode()).hexdigest()[:24]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.with_suffix(".lock")):  # the processes of a run train one tokenizer, not one each
            if not folder.is_dir():
                _train(config, data, folder)
    return Tokenizer.load(folder)


def _train(config: TokenizerConfig, data: DataConfig, folder: Path) -> None:
    print(f"Training a {config.kind} tokenizer of {config.vocab_size} tokens on {', '.join(data.train)}", flush=True)
    tokenizer = train_tokenizer(_texts(data), config)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    try:
        tokenizer.save(part)
        part.chmod(0o755)  # a temporary folder is closed to others
        os.replace(part, folder)
    except OSError:
        if not folder.is_dir():  # where locks do not reach other hosts, one of them may have been first
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def cache_folder(data: DataConfig) -> Path:
    """Where prepared rows and trained tokenizers are kept."""
    default = os.environ.get("JAXENCODER_CACHE") or Path.home() / ".cache" / "jaxencoder"
    return Path(data.cache or default)


def _texts(data: DataConfig) -> Iterator[str]:
    pairs = pair_fields(data)
    for source in data.train:
        fields = [data.text_field, *([pairs[source]] if pairs[source] else [])]
        words = data.label_unit == "word"
        for record in read(source, text_field=data.text_field, text_unit=data.text_unit, words=words):
            # Words are a text together, and each choice is one.
            values = (" ".join(record[field]) if words else record[field] for field in fields)
            for value in values:
                yield from value if isinstance(value, list) else (value,)
