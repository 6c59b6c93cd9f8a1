"""Which documents are held out of training where no source is named for validation: a share, by a hash of the text."""

import hashlib
from collections.abc import Iterator, Sequence

from jaxencoder.text.config import DataConfig
from jaxencoder.text.sources import Record, read


def text_digest(text: str | Sequence[str], pair: str) -> int:
    """64 bits that say what is held out; alike for equal texts or lists of words, so that they are on the same side."""
    content = f"{text if isinstance(text, str) else ' '.join(text)}\0{pair}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def is_held_out(digest: int, share: float) -> bool:
    """Whether a document is in this share of all documents."""
    return digest < share * 2**64


def validation_records(data: DataConfig) -> Iterator[tuple[str, Record]]:
    """The records of which the validation rows of a labelled data set are made: where each stands, and all its fields.

    Raises:
        ValueError: nothing is held out, or a record that cannot be read or lacks a field that the settings name.
        OSError: a source cannot be read.
    """
    share = 0.0 if data.validation else data.validation_fraction
    sources = data.validation or (data.train if share else ())
    if not sources:
        raise ValueError("this run has held nothing out; name a source with --data")
    required = [name for name in (data.pair_field, data.label_field) if name]
    for source in sources:
        options = {"text_unit": data.text_unit, "words": data.label_unit == "word"}
        records = read(source, text_field=data.text_field, required=required, **options)
        for number, record in enumerate(records, 1):
            pair = str(record[data.pair_field]) if data.pair_field else ""
            if not share or is_held_out(text_digest(record[data.text_field], pair), share):
                yield f"{source}, record {number}", record
