"""The two libraries under one Tokenizer: Hugging Face `tokenizers` and SentencePiece, behind the same few methods.

Kudo and Richardson, "SentencePiece", EMNLP 2018, arXiv:1808.06226; https://github.com/huggingface/tokenizers.
"""

import json
import os
import re
import unicodedata
from itertools import chain
from typing import NamedTuple, NoReturn

import numpy as np
import sentencepiece
import tokenizers
from tokenizers import normalizers

ROLES = ("pad", "unk", "cls", "sep", "mask")
# Tried in this order when no configuration names the special tokens: BERT's names, then RoBERTa's and SentencePiece's.
USUAL_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>", "<cls>"),
    "sep": ("[SEP]", "</s>", "<sep>"),
    "mask": ("[MASK]", "<mask>"),
}
# GPT-2's alphabet of bytes: those that print stand for themselves, the others for the characters from 256 on.
_PRINTED = (*range(33, 127), *range(161, 173), *range(174, 256))
_UNPRINTED = (byte for byte in range(256) if byte not in _PRINTED)
_BYTES = {chr(byte): byte for byte in _PRINTED} | {chr(256 + i): byte for i, byte in enumerate(_UNPRINTED)}
# Blocks of scripts that put no spaces between words: Thai and Lao, Tibetan, Burmese, Khmer, kana, Chinese characters.
_SPACELESS = (
    *((0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF)),
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x20000, 0x323AF)),
)


class Encoding(NamedTuple):
    """One encoded text or pair.

    ids: int32 [n]. type_ids: int32 [n]. offsets: int32 [n, 2], the characters of the original text that a token
    stands for, (0, 0) for the special tokens added around it; None unless asked for. In a pair the offsets of each
    part count from the start of that part. sequence: int8 [n], 0 or 1 for tokens of the first or second text, -1 for
    the special tokens added; None where offsets is.
    """

    ids: np.ndarray
    type_ids: np.ndarray
    offsets: np.ndarray | None
    sequence: np.ndarray | None = None


def raise_invalid_text(texts: list[str], error: Exception) -> NoReturn:
    """Raises ValueError that names the first text which is not valid Unicode text, or else the error itself."""
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"text {number} is {text!r}, not a string; pass a list of strings") from error
        for place, character in enumerate(text):
            if "\ud800" <= character <= "\udfff":
                raise ValueError(
                    f"text {number} has a lone surrogate (U+{ord(character):04X}) at character {place}, which is not "
                    "valid Unicode; decode the source with errors='replace' or remove it"
                ) from error
    raise error


def find_roles(ids: dict[str, int], named: dict[str, str], where: str) -> dict[str, int]:
    """Ids of the five special tokens, by the names a configuration gives or the usual ones.

    Args: ids, token -> id; named, role -> token from a configuration (may be empty); where, for the error.
    Raises: ValueError naming every special token that is missing.
    """
    found, missing = {}, []
    for role in ROLES:
        names = (named[role],) if role in named else USUAL_NAMES[role]
        present = [name for name in names if name in ids]
        if present:
            found[role] = ids[present[0]]
        else:
            missing.append(" or ".join(names))
    if missing:
        raise ValueError(
            f"{where} has no {', no '.join(missing)}; an encoder's tokenizer needs all five special tokens"
        )
    return found


def shorten(encoding: Encoding, sequence: np.ndarray, max_length: int) -> Encoding:
    """Drops tokens from the end of the longer text until the whole has max_length; added special tokens stay.

    Args: sequence, int8 [n], 0 or 1 for tokens of the first or second text, -1 for added special tokens.
    Raises: ValueError where the special tokens alone are longer.
    """
    counts = np.array([np.sum(sequence == part) for part in (0, 1)])
    room = max_length - int(np.sum(sequence == -1))
    if room < 0:
        raise ValueError(f"max_length is {max_length}, shorter than the special tokens alone; give a larger one")
    # The shorter text keeps up to half of the room, the longer one what is left; the second has the odd token.
    least = min(int(counts.min()), room // 2)
    limits = [least, room - least] if counts[0] <= counts[1] else [room - least, least]
    keep = sequence == -1
    for part, limit in enumerate(limits):
        keep[np.flatnonzero(sequence == part)[:limit]] = True
    return Encoding(*(None if field is None else field[keep] for field in encoding))


class HuggingFaceBackend:
    """A `tokenizers.Tokenizer` with its special tokens found; state is its JSON text."""

    file = "tokenizer.json"

    def __init__(self, tokenizer: tokenizers.Tokenizer, named: dict[str, str], where: str):
        # A published tokenizer.json often truncates and pads to the length of its model; rows decide that here.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        vocab = tokenizer.get_vocab(with_added_tokens=True)
        self.roles = find_roles(vocab, named, where)
        self.tokens = [""] * (max(vocab.values()) + 1)
        for token, index in vocab.items():
            self.tokens[index] = token
        names = {role: self.tokens[index] for role, index in self.roles.items()}
        tokenizer.add_special_tokens([token for token in names.values() if not _is_added(tokenizer, token)])
        if tokenizer.post_processor is None:
            tokenizer.post_processor = bert_template(names["cls"], names["sep"], self.roles)
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = {index for index, token in added.items() if token.special} | set(self.roles.values())
        self._tokenizer = tokenizer
        self._settings = json.loads(tokenizer.to_str())
        self.name = self._settings["model"]["type"].lower()

    def lowercased(self) -> "HuggingFaceBackend":
        """The same, with every text in lower case before anything else; special tokens keep theirs."""
        changed = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        steps = changed.normalizer
        steps = [] if steps is None else list(steps) if isinstance(steps, normalizers.Sequence) else [steps]
        if any(isinstance(step, normalizers.Lowercase) for step in steps):
            return self
        changed.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])
        return HuggingFaceBackend(changed, {role: self.tokens[i] for role, i in self.roles.items()}, "the tokenizer")

    def state(self) -> bytes:
        return json.dumps(self._settings, ensure_ascii=False, sort_keys=True).encode()

    def content(self) -> bytes:
        return self._tokenizer.to_str(pretty=True).encode()

    def encode(
        self, texts: list, pairs: list | None, special: bool, offsets: bool, max_length: int | None
    ) -> list[Encoding]:
        run = self._tokenizer.encode_batch if offsets else self._tokenizer.encode_batch_fast
        try:
            encoded = run(texts if pairs is None else list(zip(texts, pairs, strict=True)), add_special_tokens=special)
        except (TypeError, UnicodeEncodeError) as error:
            raise_invalid_text(texts if pairs is None else [*texts, *pairs], error)
        return [_encoding(item, offsets, max_length) for item in encoded]

    def encode_ids(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        try:
            encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError) as error:
            raise_invalid_text(texts, error)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        ids = np.fromiter(chain.from_iterable(item.ids for item in encoded), np.int32, int(lengths.sum()))
        return ids, lengths

    def decode(self, ids: list[int], skip_special: bool) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=skip_special)

    def word_start(self, token: str) -> bool:
        """Whether a token begins a word: by the mark that the family uses, or because its script writes no spaces."""
        kinds = _types(self._settings["pre_tokenizer"]) | _types(self._settings["decoder"])
        if self.name == "wordpiece":
            prefix = self._settings["model"]["continuing_subword_prefix"]
            return not token.startswith(prefix) or is_spaceless(token.removeprefix(prefix))
        if "ByteLevel" in kinds:
            # Space, newline, tab, carriage return in GPT-2's printable alphabet of bytes.
            return token.startswith(("Ġ", "Ċ", "ĉ", "č")) or is_spaceless(_first_character(token))
        if "Metaspace" in kinds or self.name == "unigram":
            return token.startswith("▁") or is_spaceless(token)
        raise ValueError(
            f"the words of a {self.name} tokenizer with {sorted(kinds)} are not known; turn whole words off"
        )


def _is_added(tokenizer: tokenizers.Tokenizer, token: str) -> bool:
    return any(item.content == token for item in tokenizer.get_added_tokens_decoder().values())


def _types(part: dict | None) -> set[str]:
    if part is None:
        return set()
    inner = [item for key in ("pretokenizers", "decoders") for item in part.get(key, ())]
    return {part["type"]}.union(*map(_types, inner))


def _encoding(item: tokenizers.Encoding, offsets: bool, max_length: int | None) -> Encoding:
    places = np.array(item.offsets, np.int32).reshape(len(item), 2) if offsets else None
    ids, types = np.array(item.ids, np.int32), np.array(item.type_ids, np.int32)
    long = max_length is not None and len(item) > max_length
    sequence = None
    if long or offsets:
        sequence = np.array([-1 if part is None else part for part in item.sequence_ids], np.int8)
    encoding = Encoding(ids, types, places, sequence if offsets else None)
    return shorten(encoding, sequence, max_length) if long else encoding


def bert_template(cls: str, sep: str, roles: dict[str, int]) -> tokenizers.processors.TemplateProcessing:
    """[CLS] a [SEP] and [CLS] a [SEP] b [SEP], with type id 1 from b on (BERT, DeBERTa, ModernBERT, BigBird)."""
    return tokenizers.processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, roles["cls"]), (sep, roles["sep"])],
    )


class SentencePieceBackend:
    """A SentencePiece model; literal special tokens in the text become their ids, as the other library does it.

    A missing [MASK] gets the id after the model's last piece, as DeBERTa's does; nothing else is ever added, since
    a family that shifts the model's ids (XLM-R) would then load with wrong ones.
    """

    file = "spm.model"

    def __init__(self, model: bytes, named: dict[str, str], where: str):
        self._bytes = model
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model)
            pieces = [self._model.id_to_piece(index) for index in range(len(self._model))]
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{where} is not a SentencePiece model; check the file") from error
        self.tokens = pieces
        mask = (named["mask"],) if "mask" in named else USUAL_NAMES["mask"]
        if not set(mask) & set(pieces):
            # Named in the style of the others, where no configuration says.
            bracketed = "mask" in named or "[CLS]" in pieces
            self.tokens = [*pieces, mask[0] if bracketed else mask[-1]]
        self.roles = find_roles({token: index for index, token in enumerate(self.tokens)}, named, where)
        count = range(len(pieces))
        self.special_ids = {index for index in count if self._model.is_control(index)} | set(self.roles.values())
        self._special = {self.tokens[index]: index for index in self.special_ids}
        longest_first = sorted(self._special, key=lambda token: (-len(token), token))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))
        # The library does not say which algorithm a model has: only unigram scores are other than minus the rank.
        ordinary = [i for i in count if not (self._model.is_control(i) or self._model.is_unknown(i))]
        ordinary = [i for i in ordinary if not self._model.is_byte(i) and self._model.get_score(i) != 0][:64]
        ranks = all(float(self._model.get_score(i)).is_integer() for i in ordinary)
        self.name = "sentencepiece-bpe" if ranks else "sentencepiece-unigram"

    def state(self) -> bytes:
        return self._bytes + json.dumps([self.tokens[-1], sorted(self.roles.items())]).encode()

    def content(self) -> bytes:
        return self._bytes

    def encode(
        self, texts: list, pairs: list | None, special: bool, offsets: bool, max_length: int | None
    ) -> list[Encoding]:
        first = self._parts(texts, offsets)
        second = [None] * len(first) if pairs is None else self._parts(pairs, offsets)
        cls, sep = ([self.roles[role]] if special else [] for role in ("cls", "sep"))
        encodings = []
        for one, two in zip(first, second, strict=True):
            blocks = [(cls, None, 0, -1), (*one, 0, 0), (sep, None, 0, -1)]
            if two is not None:
                blocks += [(*two, 1, 1), (sep, None, 1, -1)]
            counts = [len(ids) for ids, *_ in blocks]
            places = [np.zeros((n, 2)) if at is None else at for n, (_, at, *_) in zip(counts, blocks, strict=True)]
            sequence = np.repeat([part for *_, part in blocks], counts).astype(np.int8)
            encoding = Encoding(
                np.concatenate([ids for ids, *_ in blocks]).astype(np.int32),
                np.repeat([kind for _, _, kind, _ in blocks], counts).astype(np.int32),
                np.concatenate(places).astype(np.int32) if offsets else None,
                sequence if offsets else None,
            )
            if max_length is not None and len(encoding.ids) > max_length:
                encoding = shorten(encoding, sequence, max_length)
            encodings.append(encoding)
        return encodings

    def encode_ids(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        arrays = [ids for ids, _ in self._parts(texts, False)]
        lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
        return np.concatenate([np.empty(0, np.int32), *arrays]), lengths

    def _parts(self, texts: list[str], offsets: bool) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """ids int32 [n] and offsets int32 [n, 2] or None of each text, without special tokens around it."""
        try:
            found = [list(self._pattern.finditer(text)) for text in texts]
            segments = []
            for text, matches in zip(texts, found, strict=True):
                edges = [0, *chain.from_iterable(match.span() for match in matches), len(text)]
                segments += [(text[a:b], a) for a, b in zip(edges[::2], edges[1::2], strict=True)]
            # The one switch that worker processes already set for the other library.
            threads = 1 if os.environ.get("TOKENIZERS_PARALLELISM", "").lower() in ("false", "0", "off") else -1
            kind = "offset_mapping" if offsets else "numpy"
            plain = [segment for segment, _ in segments]
            encoded = self._model.encode(plain, num_threads=threads, return_type=kind) if plain else []
        except (TypeError, UnicodeEncodeError) as error:
            raise_invalid_text(texts, error)
        if not offsets:
            encoded = [(ids, None) for ids in encoded]
        else:
            encoded = [
                (np.array(item["ids"], np.int32), _spread(item["offsets"], len(text)) + np.int32(start))
                for item, (text, start) in zip(encoded, segments, strict=True)
            ]
        if len(segments) == len(texts):
            return encoded
        parts, segment = [], iter(encoded)
        for matches in found:
            pieces = [next(segment)]
            for match in matches:
                at = np.array([match.span()], np.int32) if offsets else None
                pieces += [(np.array([self._special[match[0]]], np.int32), at), next(segment)]
            ids, places = zip(*pieces, strict=True)
            parts.append((np.concatenate(ids), np.concatenate(places) if offsets else None))
        return parts

    def decode(self, ids: list[int], skip_special: bool) -> str:
        # The model knows nothing of an added [MASK] and drops control symbols, so they are written here.
        groups: list[list[int] | str] = [[]]
        for index in ids:
            if index not in self.special_ids or index == self.roles["unk"]:
                groups[-1].append(index) if isinstance(groups[-1], list) else groups.append([index])
            elif not skip_special:
                groups.append(self.tokens[index])
        if skip_special:
            groups = [[i for i in groups[0] if i != self.roles["unk"]]]
        written = [group if isinstance(group, str) else self._model.decode(group) for group in groups]
        return " ".join(part for part in written if part)

    def word_start(self, token: str) -> bool:
        """Whether a token begins a word: it starts with the metaspace, or its script writes no spaces."""
        return token.startswith("▁") or is_spaceless(token)


def is_spaceless(text: str) -> bool:
    """Whether a text begins with a character of a script that puts no spaces between words: Chinese, Japanese, Thai ...

    A vowel sign or tone mark belongs to the character before it, and does not count.
    """
    if not text or unicodedata.category(text[0]) in ("Mn", "Mc", "Lm"):
        return False
    return any(first <= ord(text[0]) <= last for first, last in _SPACELESS)


def _first_character(token: str) -> str:
    """The first character of a byte-level token: of a token that ends inside it, one of the same block."""
    raw = bytes(_BYTES[letter] for letter in token if letter in _BYTES)
    size = 1 + sum(raw[:1] >= bytes([lead]) for lead in (0xC0, 0xE0, 0xF0))
    return raw[:size].ljust(size, b"\x80").decode("utf-8", "ignore")


def _spread(offsets: list[tuple[int, int]], length: int) -> np.ndarray:
    """Offsets int32 [n, 2] where every piece made of one character (its bytes, or what NFKC makes of it) spans it.

    [(2, 2), (2, 2), (2, 3)] -> [[2, 3], [2, 3], [2, 3]]; the library gives the character to the last piece only. A
    metaspace put before the text spans the first character, as in the other library.
    """
    places = np.array(offsets, np.int32).reshape(-1, 2)
    empty = places[:, 0] == places[:, 1]
    places[empty, 1] = np.minimum(places[empty, 0] + 1, length)
    return places
