"""Tokenizers from the files that published encoders carry: vocab.txt, vocab.json + merges.txt, SentencePiece models.

The SentencePiece files of XLM-R, CamemBERT, ALBERT and DeBERTa are no whole tokenizer: each family renumbers the pieces
or prepares the text outside the model. Here they become the tokenizer.json that was published beside them.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from jaxencoder.text.tokenizers.encoding import ROLES, bert_template, find_roles

MPNET = {"pad": "<pad>", "unk": "[UNK]", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
FAIRSEQ = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
# What precedes a model's pieces in the vocabulary, and how many of the model's own it replaces; <mask> follows.
SHIFTED = {
    "xlm-roberta": (("<s>", "<pad>", "</s>", "<unk>"), 3),
    "camembert": (("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"), 1),
}
BRACKETED = {"cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
NAMED = {
    "xlm-roberta": FAIRSEQ,
    "camembert": FAIRSEQ,
    "albert": {"pad": "<pad>", "unk": "<unk>", **BRACKETED},
    "deberta-v2": {"pad": "[PAD]", "unk": "[UNK]", **BRACKETED},
}
# tokenizer_class (without Fast) or model_type -> the family whose steps apply.
FAMILIES = {
    "xlmrobertatokenizer": "xlm-roberta",
    "xlm-roberta": "xlm-roberta",
    "xlm-roberta-xl": "xlm-roberta",
    "camemberttokenizer": "camembert",
    "camembert": "camembert",
    "alberttokenizer": "albert",
    "albert": "albert",
    "debertav2tokenizer": "deberta-v2",
    "deberta-v2": "deberta-v2",
    "mpnettokenizer": "mpnet",
    "mpnet": "mpnet",
    "roformertokenizer": "roformer",
    "roformer": "roformer",
}
FILES = {"sentencepiece.bpe.model": "xlm-roberta", "spiece.model": "albert"}
UNIGRAM, CONTROL, USER_DEFINED = 1, 3, 4


class Piece(NamedTuple):
    """One piece of a SentencePiece model; kind 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte."""

    text: str
    score: float
    kind: int


class Model(NamedTuple):
    """What a SentencePiece file says: its pieces, algorithm (1 unigram), compiled normalisation and byte fallback."""

    pieces: list[Piece]
    algorithm: int
    charsmap: bytes
    byte_fallback: bool


def family(file: Path, config: dict) -> str:
    """Which family's steps a file needs: by tokenizer_class, else config.json's model_type, else the file's name.

    Returns: a value of FAMILIES; the name itself for a family that needs no steps, or that is not known; "" for none.
    Raises: ValueError for a config.json that is not JSON.
    """
    name = str(config.get("tokenizer_class") or "")
    if name in ("PreTrainedTokenizerFast", "TokenizersBackend"):
        return name  # this package's own, or a tokenizer.json: nothing is around the model
    settings = file.parent / "config.json"
    if not name and settings.is_file():
        try:
            content = json.loads(settings.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{settings} is not JSON in UTF-8: {error}") from error
        name = str(content.get("model_type") or "") if isinstance(content, dict) else ""
    if name:
        return FAMILIES.get(name.removesuffix("Fast").lower(), name)
    return FILES.get(file.name, "")


def read_model(content: bytes, where: str) -> Model:
    """A SentencePiece file, read without protobuf: two copies of its schema in one process refuse each other.

    Raises: ValueError for anything else.
    """
    pieces, algorithm, charsmap, byte_fallback = [], UNIGRAM, b"", False
    try:
        for number, value in _fields(content):
            if number == 1:
                part = dict(_fields(value))
                score = struct.unpack("<f", part[2])[0] if 2 in part else 0.0
                pieces.append(Piece(part.get(1, b"").decode(), score, part.get(3, 1)))
            elif number == 2:
                part = dict(_fields(value))
                algorithm, byte_fallback = part.get(3, UNIGRAM), bool(part.get(35, 0))
            elif number == 3:
                charsmap = dict(_fields(value)).get(2, b"")
    except (ValueError, IndexError, KeyError, TypeError, struct.error) as error:
        raise ValueError(f"{where} is not a SentencePiece model; check the file") from error
    if not pieces:
        raise ValueError(f"{where} is not a SentencePiece model; check the file")
    return Model(pieces, algorithm, charsmap, byte_fallback)


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message: number, and a whole number or the bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = content[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(content):
        key = varint()
        wire = key & 7
        if wire == 0:
            yield key >> 3, varint()
            continue
        if wire not in (1, 2, 5):
            raise ValueError(f"wire type {wire}")
        size = {1: 8, 5: 4}[wire] if wire != 2 else varint()
        if at + size > len(content):
            raise ValueError("the message ends early")
        yield key >> 3, content[at : at + size]
        at += size


def sentencepiece_unigram(
    content: bytes, kind: str, config: dict, named: dict[str, str], where: str
) -> tokenizers.Tokenizer | None:
    """The tokenizer of a family that puts steps around its SentencePiece model; None for one that puts none.

    Args: named, role -> token from a configuration; the family's own names are added to it.
    Raises: ValueError for a damaged file, a model that is not unigram, or a family that is not known.
    """
    if not kind:
        pieces = {piece.text for piece in read_model(content, where).pieces}
        # DeBERTa's file has no mask; a model trained here has all five special tokens.
        kind = "deberta-v2" if "[CLS]" in pieces and "[MASK]" not in pieces else ""
    if kind not in NAMED:
        if config.get("do_lower_case") is True or Path(where).name in FILES:
            known = ", ".join(sorted(NAMED))
            raise ValueError(
                f"{where} needs the steps of {kind!r} around the SentencePiece model, and only those of {known} are "
                "known; load its tokenizer.json instead"
            )
        return None
    model = read_model(content, where)
    if model.algorithm != UNIGRAM:
        raise ValueError(f"{where} is not a unigram model, as {kind} has; load its tokenizer.json instead")
    for role, token in NAMED[kind].items():
        named.setdefault(role, token)
    # Nine digits tell float32 apart, and tokenizer.json gives them back to the last bit; seventeen it does not.
    vocab = [(piece.text, float(f"{piece.score:.9g}")) for piece in model.pieces]
    if kind in SHIFTED:
        first, skipped = SHIFTED[kind]
        vocab = [(token, -100.0 if token == "<unk>NOTUSED" else 0.0) for token in first] + vocab[skipped:]
        vocab.append((named["mask"], 0.0))
    elif kind == "albert":
        # ALBERT splits "2," in two although its model has a piece for it: such pieces lose 100.
        vocab = [
            (token, score - 100 if len(token) > 1 and token[-1] == "," and token[-2].isdigit() else score)
            for token, score in vocab
        ]
    ids = {token: index for index, (token, _) in enumerate(vocab)}
    ids.setdefault(named["mask"], len(vocab))
    roles = find_roles(ids, named, where)
    # Of these families only DeBERTa v3 has bytes. transformers writes [UNK] there; the model was trained with bytes.
    tokenizer = tokenizers.Tokenizer(models.Unigram(vocab, roles["unk"], model.byte_fallback))
    tokenizer.normalizer = normalizers.Sequence(_steps(kind, config, model.charsmap))
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="always")
    if kind != "deberta-v2":
        before = [pre_tokenizers.WhitespaceSplit()]
    else:
        before = [pre_tokenizers.Punctuation("isolated")] if config.get("split_by_punct") else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, metaspace])
    decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoder]) if model.byte_fallback else decoder
    _add_special(tokenizer, named, lstrip=kind != "deberta-v2")
    if kind in SHIFTED:
        extra = [token for token in SHIFTED[kind][0] if token.endswith("NOTUSED")]
        tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in extra])
        cls, sep = named["cls"], named["sep"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{cls} $A {sep}",
            pair=f"{cls} $A {sep} {sep} $B {sep}",
            special_tokens=[(cls, roles["cls"]), (sep, roles["sep"])],
        )
    else:
        tokenizer.post_processor = bert_template(named["cls"], named["sep"], roles)
    present = set(ids)
    defined = [piece for piece in model.pieces if piece.kind in (CONTROL, USER_DEFINED) and piece.text in present]
    new = [piece for piece in defined if piece.text not in named.values()]
    tokenizer.add_tokens([AddedToken(piece.text, normalized=False, special=piece.kind == CONTROL) for piece in new])
    return tokenizer


def _steps(kind: str, config: dict, charsmap: bytes) -> list:
    """What a family does to the text before the pieces, in order; charsmap is the model's own normalisation."""
    own = [normalizers.Precompiled(charsmap)] if charsmap else []
    lower = [normalizers.Lowercase()]
    if kind == "albert":
        steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        if not config.get("keep_accents", False):
            steps += [normalizers.NFKD(), normalizers.StripAccents()]
        return steps + lower * bool(config.get("do_lower_case", True)) + own
    if kind == "deberta-v2":
        # transformers 5 has NFC here in place of the model's own normalisation, which the model was trained with.
        single = normalizers.Replace(Regex(" {2,}"), " ")
        return [*lower * bool(config.get("do_lower_case", False)), normalizers.Strip(), *own, single]
    return own


def _add_special(tokenizer: tokenizers.Tokenizer, tokens: dict[str, str], lstrip: bool = True) -> None:
    # The space before a mask is the mask's, as in the original RoBERTa.
    tokenizer.add_special_tokens(
        [AddedToken(tokens[role], lstrip=lstrip and role == "mask", normalized=False) for role in ROLES]
    )


def wordpiece(file: Path, kind: str, config: dict, named: dict[str, str]) -> tokenizers.Tokenizer:
    """BERT's or MPNet's tokenizer from its vocabulary, one token a line; cased as do_lower_case or else the tokens say.

    Raises: ValueError for a missing special token, or for RoFormer, whose Chinese words need a dictionary.
    """
    if kind == "roformer":
        raise ValueError(f"{file} is RoFormer's, whose words jieba cuts before the vocabulary; load its tokenizer.json")
    with file.open(encoding="utf-8") as lines:
        vocab = {line.rstrip("\n"): number for number, line in enumerate(lines)}
    # MPNet's vocabulary holds BERT's [CLS] and [SEP] too, as ordinary tokens.
    mpnet = kind == "mpnet" or (not kind and all(vocab.get(t) == i for i, t in enumerate(("<s>", "<pad>", "</s>"))))
    if mpnet:
        for role, token in MPNET.items():
            named.setdefault(role, token)
    roles = find_roles(vocab, named, str(file))
    special = {token for token, index in vocab.items() if index in roles.values()}
    lowercase = config.get("do_lower_case")
    if lowercase is None:
        # Nothing but [CLS] and its like has a capital letter in an uncased vocabulary.
        cased = (t for t in vocab if t not in special and not (t.startswith("[") and t.endswith("]")))
        lowercase = not any(token != token.lower() for token in cased)
    unk = next(token for token, index in vocab.items() if index == roles["unk"])
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=unk))
    tokenizer.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=lowercase,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    if mpnet:
        pair = [(named[role], roles[role]) for role in ("sep", "cls")]
        tokenizer.post_processor = processors.RobertaProcessing(*pair, trim_offsets=True, add_prefix_space=False)
        _add_special(tokenizer, named)
    return tokenizer


def byte_level(folder: Path, config: dict, named: dict[str, str]) -> tokenizers.Tokenizer:
    """RoBERTa's tokenizer from vocab.json and merges.txt."""
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; a byte-level BPE needs vocab.json and merges.txt")
    try:
        vocab, merges = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except Exception as error:  # the library's bare Exception
        raise ValueError(f"{folder} has a vocab.json or merges.txt that cannot be read: {error}") from error
    roles = find_roles(vocab, named, str(folder / "vocab.json"))
    tokens = {role: next(token for token, i in vocab.items() if i == index) for role, index in roles.items()}
    prefix = bool(config.get("add_prefix_space", False))
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    pair = [(tokens[role], roles[role]) for role in ("sep", "cls")]
    tokenizer.post_processor = processors.RobertaProcessing(*pair, trim_offsets=True, add_prefix_space=prefix)
    _add_special(tokenizer, tokens)
    return tokenizer
