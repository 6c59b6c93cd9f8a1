"""Families that add steps of their own to a SentencePiece model: XLM-R, CamemBERT, ALBERT and DeBERTa.

Each renumbers the pieces or normalizes the text outside the model, so the file alone is not the tokenizer. The backend
made here equals the tokenizer.json published with the file. The file's schema is sentencepiece_model.proto in
https://github.com/google/sentencepiece; protobuf isn't used, since two copies of a schema in one process refuse each
other.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from jaxencoder.text.tokenizers.encoding import ROLES, special_tokens
from jaxencoder.text.tokenizers.huggingface import add_special_tokens, pair_template
from jaxencoder.text.tokenizers.sentencepiece_backend import SentencePieceBackend
from jaxencoder.text.tokenizers.sentencepiece_text import SentencePieceText

# Family -> the tokens that precede the model's pieces, and how many of the pieces they replace; <mask> follows.
_SHIFTED = {
    "xlmroberta": (("<s>", "<pad>", "</s>", "<unk>"), 3),
    "camembert": (("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"), 1),
}
# Family -> its special tokens, in the order of ROLES.
_SPECIAL_TOKENS = {
    "xlmroberta": ("<pad>", "<unk>", "<s>", "</s>", "<mask>"),
    "camembert": ("<pad>", "<unk>", "<s>", "</s>", "<mask>"),
    "albert": ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
    "debertav2": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
}
# Family by the name of its published file.
FILE_FAMILIES = {"sentencepiece.bpe.model": "xlmroberta", "spiece.model": "albert"}
_UNIGRAM = 1  # an algorithm of the file's schema
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5  # kinds of pieces there


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


def load_sentencepiece(
    file: Path, family: str, options: dict, names: dict[str, str]
) -> SentencePieceBackend | tuple[tokenizers.Tokenizer, dict[str, str], bytes]:
    """Load a SentencePiece model; with the steps of a family, its tokenizer, special tokens by role and the model.

    `settings.read_settings` gives family, options and names. ValueError for a damaged file, a model that is not
    unigram, or a family whose steps are not supported.
    """
    content = file.read_bytes()
    if not family:
        pieces = {piece.text for piece in read_model(content, str(file)).pieces}
        # DeBERTa's file has no mask. A model trained here has all five special tokens.
        family = "debertav2" if "[CLS]" in pieces and "[MASK]" not in pieces else ""
    if family not in _SPECIAL_TOKENS:
        if options.get("do_lower_case") is True or file.name in FILE_FAMILIES:
            problem = f"{file} needs the steps of {family!r} around the SentencePiece model"
            supported = f"only those of {', '.join(sorted(_SPECIAL_TOKENS))} are supported"
            raise ValueError(f"{problem}, and {supported}; load its tokenizer.json instead")
        return SentencePieceBackend(content, names, str(file))
    if family == "albert":
        content = _without_numbers_and_commas(content)
    model = read_model(content, str(file))
    if model.algorithm != _UNIGRAM:
        raise ValueError(f"{file} is not a unigram model, as {family} has; load its tokenizer.json instead")
    names = dict(zip(ROLES, _SPECIAL_TOKENS[family], strict=True)) | names
    vocab = _vocabulary(model, family, names["mask"])
    # A file without the mask gets it as the last id.
    special_tokens({token for token, _ in vocab} | {names["mask"]}, names, str(file), required=("unk", "cls", "sep"))
    if family in _SHIFTED and model.pieces[0].kind != _UNKNOWN:
        problem = f"{file} begins with {model.pieces[0].text!r}, not with the unknown token, as {family} has it"
        raise ValueError(f"{problem}; name the right tokenizer_class in tokenizer_config.json")
    return _build(model, vocab, family, options, names), names, content


def with_tokenizer_json(backend: SentencePieceBackend) -> SentencePieceText:
    """The backend with a tokenizer.json, for other software; ValueError for a model that is not unigram."""
    (content,) = backend.files().values()
    model, source = read_model(content, "the tokenizer"), "the SentencePiece tokenizer"
    if model.algorithm != _UNIGRAM:
        raise ValueError(f"{source} is a {backend.name}, which no tokenizer.json can hold; write the model as a run")
    names = {role: backend.tokens[index] for role, index in backend.roles.items()}
    tokenizer = _build(model, _vocabulary(model, "", names["mask"]), "", {}, names)
    return SentencePieceText(tokenizer, names, source, content)


def _build(
    model: Model, vocab: list[tuple[str, float]], family: str, options: dict, names: dict[str, str]
) -> tokenizers.Tokenizer:
    pieces = {token: index for index, (token, _) in enumerate(vocab)}
    roles = {role: pieces.get(token, len(vocab)) for role, token in names.items()}
    # Among these families only DeBERTa v3 has bytes. transformers writes [UNK] there, but the model saw bytes.
    tokenizer = tokenizers.Tokenizer(models.Unigram(vocab, roles["unk"], model.byte_fallback))
    tokenizer.normalizer = normalizers.Sequence(_normalizers(family, options, model.charsmap))
    splits = [] if family == "debertav2" else [pre_tokenizers.WhitespaceSplit()]
    if family == "debertav2" and options.get("split_by_punct"):
        splits = [pre_tokenizers.Punctuation("isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.Metaspace(prepend_scheme="always")])
    decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoder]) if model.byte_fallback else decoder
    add_special_tokens(tokenizer, names, mask_takes_space=family != "debertav2")
    if family in _SHIFTED:
        unused = [token for token in _SHIFTED[family][0] if token.endswith("NOTUSED")]
        tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in unused])
    tokenizer.post_processor = pair_template(names, roles, roberta=family in _SHIFTED)
    ordinary = pieces.keys() - set(names.values())
    more = [p for p in model.pieces if p.kind in (_CONTROL, _USER_DEFINED) and p.text in ordinary]
    tokenizer.add_tokens([AddedToken(p.text, normalized=False, special=p.kind == _CONTROL) for p in more])
    return tokenizer


def _vocabulary(model: Model, family: str, mask: str) -> list[tuple[str, float]]:
    """Tokens and scores by id, as the family numbers them."""
    # Nine digits distinguish all float32 values, and tokenizer.json restores them exactly, unlike seventeen digits. It
    # has no unused pieces: a score 100 lower has the same effect.
    scores = [piece.score - 100 * (piece.kind == _UNUSED) for piece in model.pieces]
    vocab = [(piece.text, float(f"{score:.9g}")) for piece, score in zip(model.pieces, scores, strict=True)]
    if family in _SHIFTED:
        first, replaced = _SHIFTED[family]
        head = [(token, -100.0 if token == "<unk>NOTUSED" else 0.0) for token in first]
        return [*head, *vocab[replaced:], (mask, 0.0)]
    return vocab


def _without_numbers_and_commas(content: bytes) -> bytes:
    """The model with which ALBERT splits "2," in two although it has a piece for it: the piece is unused."""
    fields = []
    for number, value in _fields(content):
        text = dict(_fields(value)).get(1, b"").decode() if number == 1 else ""
        if len(text) > 1 and text[-1] == "," and text[-2].isdigit():
            value += bytes([3 << 3, _UNUSED])
        fields += [_as_varint(number << 3 | 2), _as_varint(len(value)), value]
    return b"".join(fields)


def _normalizers(family: str, options: dict, charsmap: bytes) -> list:
    """The steps of normalization in order; charsmap is the model's own."""
    compiled = [normalizers.Precompiled(charsmap)] if charsmap else []
    lower = [normalizers.Lowercase()]
    if family == "albert":
        steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        if not options.get("keep_accents", False):
            steps += [normalizers.NFKD(), normalizers.StripAccents()]
        return steps + lower * bool(options.get("do_lower_case", True)) + compiled
    if family == "debertav2":
        # transformers 5 has NFC in place of the model's own normalization, with which the model was trained.
        single_space = normalizers.Replace(Regex(" {2,}"), " ")
        return [*lower * bool(options.get("do_lower_case", False)), normalizers.Strip(), *compiled, single_space]
    return compiled


def read_model(content: bytes, source: str) -> Model:
    """Parse a SentencePiece file; ValueError, which names the source, for anything else."""
    pieces, algorithm, charsmap, byte_fallback = [], _UNIGRAM, b"", False
    try:
        for number, value in _fields(content):
            if number == 1:
                piece = dict(_fields(value))
                score = struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0
                pieces.append(Piece(piece.get(1, b"").decode(), score, piece.get(3, 1)))
            elif number == 2:
                trainer = dict(_fields(value))
                algorithm, byte_fallback = trainer.get(3, _UNIGRAM), bool(trainer.get(35, 0))
            elif number == 3:
                charsmap = dict(_fields(value)).get(2, b"")
        if not pieces:
            raise ValueError("no pieces")
    except (ValueError, IndexError, KeyError, TypeError, struct.error) as error:
        raise ValueError(f"{source} is not a SentencePiece model; check the file") from error
    return Model(pieces, algorithm, charsmap, byte_fallback)


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: number, and an integer or the bytes."""
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        wire_type = key & 7
        if wire_type == 0:
            value, position = _varint(content, position)
        else:
            size, position = _varint(content, position) if wire_type == 2 else ({1: 8, 5: 4}[wire_type], position)
            value, position = content[position : position + size], position + size
            if position > len(content):
                raise ValueError("the message ends early")
        yield key >> 3, value


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """An integer of 7 bits per byte, the lowest first, and the position after it."""
    value = shift = 0
    while True:
        byte = content[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
