"""Documents held out for validation: a fraction of the training text, chosen by a hash, when no source is named."""

import hashlib
from collections.abc import Iterator, Sequence

from jaxencoder.text.config import DataConfig
from jaxencoder.text.sources import Record, read


def text_digest(text: str | Sequence[str], pair: str) -> int:
    """Return a 64-bit hash; equal texts, or equal lists of words, land on the same side of the split."""
    content = f"{text if isinstance(text, str) else ' '.join(text)}\0{pair}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def is_held_out(digest: int, fraction: float) -> bool:
    """Whether a document with this digest is in the held-out fraction."""
    return digest < fraction * 2**64


def validation_records(data: DataConfig) -> Iterator[tuple[str, Record]]:
    """Yield the records behind the validation rows of a labeled data set, each with its source and number.

    Raises:
        ValueError: nothing is held out, or a record is unreadable or lacks a field that the settings name.
        OSError: a source cannot be read.
    """
    fraction = 0.0 if data.validation else data.validation_fraction
    sources = data.validation or (data.train if fraction else ())
    if not sources:
        raise ValueError("this run has held nothing out; name a source with --data")
    required = [name for name in (data.pair_field, data.label_field) if name]
    for source in sources:
        options = {"text_unit": data.text_unit, "words": data.label_unit == "word"}
        records = read(source, text_field=data.text_field, required=required, **options)
        for number, record in enumerate(records, 1):
            pair = str(record[data.pair_field]) if data.pair_field else ""
            if not fraction or is_held_out(text_digest(record[data.text_field], pair), fraction):
                yield f"{source}, record {number}", record
