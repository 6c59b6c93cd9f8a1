"""Reading of SentencePiece's model file without protobuf: two copies of its schema in one process refuse each other.

The schema is sentencepiece_model.proto in https://github.com/google/sentencepiece.
"""

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

UNIGRAM, CONTROL, USER_DEFINED = 1, 3, 4


class Piece(NamedTuple):
    """A piece of the vocabulary; kind 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte."""

    text: str
    score: float
    kind: int


class Model(NamedTuple):
    """The pieces, algorithm (1 unigram), compiled normalization rules and byte fallback of a SentencePiece file."""

    pieces: list[Piece]
    algorithm: int
    charsmap: bytes
    byte_fallback: bool


def read_model(content: bytes, source: str) -> Model:
    """Parse a SentencePiece file; ValueError, which names the source, for anything else."""
    pieces, algorithm, charsmap, byte_fallback = [], UNIGRAM, b"", False
    try:
        for number, value in _fields(content):
            if number == 1:
                piece = dict(_fields(value))
                score = struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0
                pieces.append(Piece(piece.get(1, b"").decode(), score, piece.get(3, 1)))
            elif number == 2:
                trainer = dict(_fields(value))
                algorithm, byte_fallback = trainer.get(3, UNIGRAM), bool(trainer.get(35, 0))
            elif number == 3:
                charsmap = dict(_fields(value)).get(2, b"")
        if not pieces:
            raise ValueError("no pieces")
    except (ValueError, IndexError, KeyError, TypeError, struct.error) as error:
        raise ValueError(f"{source} is not a SentencePiece model; check the file") from error
    return Model(pieces, algorithm, charsmap, byte_fallback)


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the fields of a protobuf message: number, and an integer or the bytes."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = content[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(content):
        key = varint()
        wire_type = key & 7
        if wire_type == 0:
            yield key >> 3, varint()
            continue
        if wire_type not in (1, 2, 5):
            raise ValueError(f"wire type {wire_type}")
        size = {1: 8, 5: 4}[wire_type] if wire_type != 2 else varint()
        if position + size > len(content):
            raise ValueError("the message ends early")
        yield key >> 3, content[position : position + size]
        position += size
