"""A SentencePiece model run on the text between special tokens, and special tokens put around the result."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import sentencepiece
from tokenizers import AddedToken

from jaxencoder.text.tokenizers.encoding import Encoding, raise_invalid_text, truncate

_CHARACTERS = re.compile("``|''|.", re.DOTALL)  # the first two are one character to a step of ALBERT

Tokens = tuple[np.ndarray, np.ndarray | None]  # ids int32 [n], and offsets int32 [n, 2] if they are requested


class Block(NamedTuple):
    """A part of an encoding: an added special token, or the first (0) or second (1) text."""

    sequence: int  # -1 for a special token
    type_id: int
    id: int = -1


class Layouts(NamedTuple):
    """What is put around one text, and around two."""

    single: list[Block]
    pair: list[Block]


class _Tokens:
    """Added tokens, found in a text; of several at one place the longest."""

    def __init__(self, tokens: Mapping[str, tuple[AddedToken, int]], prepared: Callable[[str], str]):
        longest_first = sorted(tokens.values(), key=lambda item: (-len(item[0].content), item[0].content))
        self._ids = [index for _, index in longest_first]
        patterns = [_pattern(token, prepared(token.content)) for token, _ in longest_first]
        self._pattern = re.compile("|".join(patterns) or r"(?!)")

    def find(self, text: str) -> Iterator[tuple[int, int, int]]:
        """The id, first character and last + 1 of each token."""
        for match in self._pattern.finditer(text):
            yield (self._ids[(match.lastindex or 1) - 1], *match.span())


class Segments:
    """A SentencePiece model, the special tokens that may be written in a text, and those that are put around it.

    Args:
        processor: the model.
        special: added tokens with their ids, matched in the text itself or, if they are `normalized`, in what
            `prepare` makes of it. The text between two of them is normalized and split into pieces on its own.
        layouts: the encodings of texts and of pairs.
        ids: int32 [pieces], the id of each piece of the model, if it is another than the model's.
        prepare: a step before the model, for one character (or two equal quotation marks).
        isolates: mark of a character that is split off before the model.
    """

    def __init__(
        self,
        processor: sentencepiece.SentencePieceProcessor,
        special: Mapping[str, tuple[AddedToken, int]],
        layouts: Layouts,
        ids: np.ndarray | None = None,
        prepare: Callable[[str], str] | None = None,
        isolates: Callable[[str], bool] | None = None,
    ):
        self._processor, self._layouts, self._ids, self._isolates = processor, layouts, ids, isolates
        self._prepares, self._step = prepare is not None, prepare or str
        self._prepare = lru_cache(1 << 16)(self._step)
        prepared = {x: value for x, value in special.items() if self._prepares and value[0].normalized}
        self._tokens_in_text = _Tokens({x: value for x, value in special.items() if x not in prepared}, str)
        self._tokens_in_prepared = _Tokens(prepared, self._prepared) if prepared else None

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_prepare"}  # a cache is not copied

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state
        self._prepare = lru_cache(1 << 16)(self._step)

    def encode(
        self,
        texts: list,
        pairs: list | None,
        special: bool,
        offsets: bool,
        max_length: int | None,
        side: str,
    ) -> list[Encoding]:
        """See `Tokenizer.encode_batch`; `side` is the one that is truncated."""
        columns = [self._tokens_of(column, offsets) for column in (texts, pairs) if column is not None]
        blocks = self._layouts.single if pairs is None else self._layouts.pair
        blocks = blocks if special else [block for block in blocks if block.sequence >= 0]
        return [_join(blocks, row, max_length, side) for row in zip(*columns, strict=True)]

    def encode_ids(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all texts, without added special tokens, and their number in each text."""
        arrays = [ids for ids, _ in self._tokens_of(texts, False)]
        lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
        return np.concatenate([np.empty(0, np.int32), *arrays]), lengths

    def _tokens_of(self, texts: Sequence[str], offsets: bool) -> list[Tokens]:
        """Ids and offsets of each text, without added special tokens; ValueError for invalid Unicode."""
        try:
            parts = [self._parts(text) for text in texts]
            segments = [part for text_parts in parts for part in text_parts if isinstance(part[0], str)]
            encoded = iter(self._run(segments, offsets) if segments else ())
        except (TypeError, UnicodeEncodeError) as error:
            raise_invalid_text(texts, error)
        results: list[Tokens] = []
        for text_parts in parts:
            tokens = [next(encoded) if isinstance(part[0], str) else _token(*part) for part in text_parts]
            ids, spans = zip(*tokens, strict=True)
            results.append((np.concatenate(ids), np.concatenate(spans) if offsets else None))
        return results

    def _parts(self, text: str) -> list[tuple]:
        """The segments of a text, (segment, first character), and its special tokens, (id, first, last + 1)."""
        parts, end = [], 0
        for index, first, last in self._tokens_in_text.find(text):
            parts += [*self._prepared_parts(text[end:first], end), (index, first, last)]
            end = last
        return [*parts, *self._prepared_parts(text[end:], end)]

    def _prepared_parts(self, text: str, start: int) -> list[tuple]:
        """The same of a part of the text, for the tokens that are matched in the prepared one."""
        parts, end = [], 0
        if self._tokens_in_prepared is not None:
            sources = self._sources(text)
            for index, first, last in self._tokens_in_prepared.find(self._prepared(text)):
                first, last = int(sources[first]), int(sources[last])
                parts += [*self._split(text[end:first], start + end), (index, start + first, start + last)]
                end = last
        return [*parts, *self._split(text[end:], start + end)]

    def _prepared(self, text: str) -> str:
        return "".join(map(self._prepare, _CHARACTERS.findall(text)))

    def _split(self, text: str, start: int) -> list[tuple[str, int]]:
        if self._isolates is None:
            return [(text, start)]
        edges = [i + side for i, c in enumerate(text) if self._isolates(c) for side in (0, 1)]
        edges = sorted({0, len(text), *edges})
        return [(text[a:b], start + a) for a, b in pairwise(edges)] or [(text, start)]

    def _run(self, segments: Sequence[tuple[str, int]], offsets: bool) -> list[Tokens]:
        # Worker processes set this switch for the other library; it stands for both.
        threads = 1 if os.environ.get("TOKENIZERS_PARALLELISM", "").lower() in ("false", "0", "off") else -1
        texts = [text for text, _ in segments]
        if self._prepares:
            texts = [self._prepared(text) for text in texts]
        if not offsets:
            encoded = self._processor.encode(texts, num_threads=threads, return_type="numpy")
            return [(self._tokens(ids), None) for ids in encoded]
        encoded = self._processor.encode(texts, num_threads=threads, return_type="offset_mapping")
        results: list[Tokens] = []
        for item, (text, start) in zip(encoded, segments, strict=True):
            spans = np.array(item["offsets"], np.int32).reshape(-1, 2)
            if self._prepares:
                spans = self._sources(text)[spans]
            results.append((self._tokens(item["ids"]), _widen_empty(spans, len(text)) + np.int32(start)))
        return results

    def _tokens(self, pieces: Sequence[int] | np.ndarray) -> np.ndarray:
        indices = np.asarray(pieces, np.int32)
        return indices if self._ids is None else self._ids[indices]

    def _sources(self, text: str) -> np.ndarray:
        """The character that each prepared character comes from, and the text's length at the end: int32 [n + 1]."""
        matches = list(_CHARACTERS.finditer(text))
        counts = [len(self._prepare(match[0])) for match in matches]
        return np.append(np.repeat([match.start() for match in matches], counts), len(text)).astype(np.int32)


def _join(blocks: Sequence[Block], texts: Sequence[Tokens], max_length: int | None, side: str) -> Encoding:
    """One encoding of special tokens and texts; empty offsets if those of the texts are None."""
    parts = [_token(block.id, 0, 0) if block.sequence < 0 else texts[block.sequence] for block in blocks]
    counts = [len(ids) for ids, _ in parts]
    sequence = np.repeat([block.sequence for block in blocks], counts).astype(np.int8)
    type_ids = np.repeat([block.type_id for block in blocks], counts).astype(np.int32)
    encoding = Encoding(np.concatenate([ids for ids, _ in parts]).astype(np.int32), type_ids)
    if texts[0][1] is not None:
        spans = [np.zeros((len(ids), 2), np.int32) if x is None else x for ids, x in parts]
        encoding = encoding._replace(offsets=np.concatenate(spans), sequence=sequence)
    if max_length is not None and len(encoding.ids) > max_length:
        return truncate(encoding, sequence, max_length, side)
    return encoding


def _token(index: int, start: int, end: int) -> Tokens:
    return np.array([index], np.int32), np.array([[start, end]], np.int32)


def _pattern(token: AddedToken, content: str) -> str:
    """The regular expression of an added token, as its flags have it."""
    content = re.escape(content)
    content = rf"(?<!\w){content}(?!\w)" if token.single_word else content
    return (r"\s*" if token.lstrip else "") + f"({content})" + (r"\s*" if token.rstrip else "")


def _widen_empty(spans: np.ndarray, length: int) -> np.ndarray:
    """Give each piece made from one character (a byte, or a part of what NFKC makes of it) the span of the character.

    [(2, 2), (2, 2), (2, 3)] -> [[2, 3], [2, 3], [2, 3]]: the library gives the character to the last piece only. A
    metaspace added before the text spans the first character, as in Hugging Face's library.
    """
    empty = spans[:, 0] == spans[:, 1]
    spans[empty, 1] = np.minimum(spans[empty, 0] + 1, length)
    return spans
