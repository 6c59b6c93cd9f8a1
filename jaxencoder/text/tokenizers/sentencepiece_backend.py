"""The backend of `Tokenizer` over SentencePiece: Kudo and Richardson, EMNLP 2018, arXiv:1808.06226."""

import json
import os
import re
from itertools import chain, groupby

import numpy as np
import sentencepiece

from jaxencoder.text.tokenizers.encoding import (
    USUAL_NAMES,
    Encoding,
    is_spaceless,
    raise_invalid_text,
    special_tokens,
    truncate,
)


class SentencePieceBackend:
    """A SentencePiece model, from its file's content, with the methods and arguments of `HuggingFaceBackend`.

    Special tokens written in a text become their ids, as in Hugging Face's library. A missing [MASK] gets the id after
    the last piece, as in DeBERTa. No other token is added: a family that shifts the model's ids, such as XLM-R, would
    load with wrong ones.
    """

    file = "spm.model"

    def __init__(self, model: bytes, names: dict[str, str], source: str):
        self._bytes = model
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model)
            pieces = [self._model.id_to_piece(index) for index in range(len(self._model))]
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{source} is not a SentencePiece model; check the file") from error
        self.tokens = pieces
        masks = (names["mask"],) if "mask" in names else USUAL_NAMES["mask"]
        if not set(masks) & set(pieces):
            # Without a configuration, <mask> or [MASK] as the other special tokens are written.
            self.tokens = [*pieces, masks[0] if "[CLS]" in pieces else masks[-1]]
        ids = {token: index for index, token in enumerate(self.tokens)}
        self.roles = {role: ids[token] for role, token in special_tokens(ids, names, source).items()}
        controls = {index for index in range(len(pieces)) if self._model.is_control(index)}
        self.special_ids = controls | set(self.roles.values())
        self._special = {self.tokens[index]: index for index in self.special_ids}
        longest_first = sorted(self._special, key=lambda token: (-len(token), token))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))
        # The library does not expose the algorithm. BPE scores are minus the rank, unigram scores are not integers.
        ordinary = [i for i in range(len(pieces)) if i not in controls and not self._model.is_unknown(i)]
        ordinary = [i for i in ordinary if not self._model.is_byte(i) and self._model.get_score(i) != 0][:64]
        is_bpe = all(float(self._model.get_score(i)).is_integer() for i in ordinary)
        self.name = "sentencepiece-bpe" if is_bpe else "sentencepiece-unigram"

    def lowercased(self) -> "SentencePieceBackend":
        raise ValueError("a SentencePiece model has no lowercasing step; give the tokenizer as tokenizer.json")

    def state(self) -> bytes:
        return self._bytes + json.dumps([self.tokens[-1], sorted(self.roles.items())]).encode()

    def content(self) -> bytes:
        return self._bytes

    def encode(
        self, texts: list, pairs: list | None, special: bool, offsets: bool, max_length: int | None
    ) -> list[Encoding]:
        first = self._encode_plain(texts, offsets)
        second = [None] * len(first) if pairs is None else self._encode_plain(pairs, offsets)
        # Of each block of tokens: ids, offsets, type id, sequence.
        cls, sep = (np.array([self.roles[role]] if special else [], np.int32) for role in ("cls", "sep"))
        no_text = np.zeros((len(sep), 2), np.int32)
        encodings = []
        for one, two in zip(first, second, strict=True):
            blocks = [(cls, no_text, 0, -1), (*one, 0, 0), (sep, no_text, 0, -1)]
            if two is not None:
                blocks += [(*two, 1, 1), (sep, no_text, 1, -1)]
            ids, spans, type_ids, sequences = zip(*blocks, strict=True)
            counts = list(map(len, ids))
            sequence = np.repeat(sequences, counts).astype(np.int8)
            encoding = Encoding(np.concatenate(ids).astype(np.int32), np.repeat(type_ids, counts).astype(np.int32))
            if offsets:
                encoding = encoding._replace(offsets=np.concatenate(spans), sequence=sequence)
            if max_length is not None and len(encoding.ids) > max_length:
                encoding = truncate(encoding, sequence, max_length)
            encodings.append(encoding)
        return encodings

    def encode_ids(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        arrays = [ids for ids, _ in self._encode_plain(texts, False)]
        lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
        return np.concatenate([np.empty(0, np.int32), *arrays]), lengths

    def _encode_plain(self, texts: list[str], offsets: bool) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Ids int32 [n] and offsets int32 [n, 2] or None of each text, without added special tokens."""
        try:
            matches = [list(self._pattern.finditer(text)) for text in texts]
            # The text between special tokens goes through the model: (text, its first character).
            segments = []
            for text, text_matches in zip(texts, matches, strict=True):
                edges = [0, *chain.from_iterable(match.span() for match in text_matches), len(text)]
                segments += [(text[a:b], a) for a, b in zip(edges[::2], edges[1::2], strict=True)]
            encoded = self._run_model(segments, offsets) if segments else []
        except (TypeError, UnicodeEncodeError) as error:
            raise_invalid_text(texts, error)
        if len(segments) == len(texts):
            return encoded
        results, segment = [], iter(encoded)
        for text_matches in matches:
            parts = [next(segment)]
            for match in text_matches:
                span = np.array([match.span()], np.int32) if offsets else None
                parts += [(np.array([self._special[match[0]]], np.int32), span), next(segment)]
            ids, spans = zip(*parts, strict=True)
            results.append((np.concatenate(ids), np.concatenate(spans) if offsets else None))
        return results

    def _run_model(self, segments: list[tuple[str, int]], offsets: bool) -> list[tuple[np.ndarray, np.ndarray | None]]:
        # Worker processes set this switch for the other library; it stands for both.
        threads = 1 if os.environ.get("TOKENIZERS_PARALLELISM", "").lower() in ("false", "0", "off") else -1
        texts = [text for text, _ in segments]
        if not offsets:
            return [(ids, None) for ids in self._model.encode(texts, num_threads=threads, return_type="numpy")]
        encoded = self._model.encode(texts, num_threads=threads, return_type="offset_mapping")
        return [
            (np.array(item["ids"], np.int32), _widen_empty(item["offsets"], len(text)) + np.int32(start))
            for item, (text, start) in zip(encoded, segments, strict=True)
        ]

    def decode(self, ids: list[int], skip_special: bool) -> str:
        if skip_special:
            return self._model.decode([index for index in ids if index not in self.special_ids])
        # The model has no added [MASK] and drops control symbols, so special tokens are written here.
        written, texts = self.special_ids - {self.roles["unk"]}, []
        for is_written, group in groupby(ids, written.__contains__):
            indices = list(group)
            texts += [self.tokens[index] for index in indices] if is_written else [self._model.decode(indices)]
        return " ".join(filter(None, texts))

    def starts_word(self, token: str) -> bool:
        return token.startswith("▁") or is_spaceless(token)


def _widen_empty(offsets: list[tuple[int, int]], length: int) -> np.ndarray:
    """Give each piece made from one character (a byte, or a part of what NFKC makes of it) the span of the character.

    [(2, 2), (2, 2), (2, 3)] -> [[2, 3], [2, 3], [2, 3]]: the library gives the character to the last piece only. A
    metaspace added before the text spans the first character, as in Hugging Face's library.
    """
    spans = np.array(offsets, np.int32).reshape(-1, 2)
    empty = spans[:, 0] == spans[:, 1]
    spans[empty, 1] = np.minimum(spans[empty, 0] + 1, length)
    return spans
