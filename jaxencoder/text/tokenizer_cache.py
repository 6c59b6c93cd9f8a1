"""The tokenizer of a run: loaded, or trained once on the run's training text and cached."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict

from jaxencoder.text.cache import cache_folder, entry_lock, publish, temporary_entry
from jaxencoder.text.config import DataConfig, TokenizerConfig
from jaxencoder.text.schema import TEXTS, Schema
from jaxencoder.text.sources import fingerprint, pair_fields, read
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.tokenizers.training import train_tokenizer


def load_or_train(config: TokenizerConfig, data: DataConfig, schema: Schema = TEXTS) -> Tokenizer:
    """Load the tokenizer at `config.path`, or train one on the training sources unless the cache has it.

    Raises:
        ValueError, OSError: there is no tokenizer at the path, or no text to train one on.
    """
    if config.path:
        return Tokenizer.load(config.path)
    settings = json.dumps(
        [asdict(config), [*map(fingerprint, data.train)], data.text_field, data.pair_field, data.text_unit]
    )
    name = hashlib.sha256(settings.encode()).hexdigest()[:24]
    folder = cache_folder(data) / "tokenizers"
    target = folder / name
    if not target.is_dir():
        with entry_lock(folder, name):  # the processes of a run train one tokenizer together
            if not target.is_dir():
                print(
                    f"Training a {config.kind} tokenizer of {config.vocab_size} tokens on {', '.join(data.train)}",
                    flush=True,
                )
                with temporary_entry(folder, name) as part:
                    train_tokenizer(_texts(data, schema), config).save(part)
                    publish(part, target)
    return Tokenizer.load(target)


def _texts(data: DataConfig, schema: Schema) -> Iterator[str]:
    pairs = pair_fields(data)
    for source in data.train:
        fields = [data.text_field, *([pairs[source]] if pairs[source] else [])]
        for record in read(source, text_field=data.text_field, text_unit=data.text_unit, words=schema.reads_words):
            for field in fields:
                value = " ".join(record[field]) if schema.reads_words else record[field]
                yield from value if isinstance(value, list) else (value,)  # each choice is a text
