"""Encoded texts, and what both tokenizer libraries share: special tokens, truncation, input errors, word starts."""

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import NamedTuple, NoReturn

import numpy as np

ROLES = ("pad", "unk", "cls", "sep", "mask")
# Tried in this order when no configuration names a special token: BERT's names, then RoBERTa's and SentencePiece's.
USUAL_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>", "<cls>"),
    "sep": ("[SEP]", "</s>", "<sep>"),
    "mask": ("[MASK]", "<mask>"),
}
# Blocks of scripts that put no spaces between words: Thai and Lao, Tibetan, Burmese, Khmer, kana, Chinese characters.
_SPACELESS = (
    *((0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF)),
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x20000, 0x323AF)),
)
NO_OFFSETS = np.empty((0, 2), np.int32)


class Encoding(NamedTuple):
    """One encoded text or pair of texts; `offsets` and `sequence` are empty unless offsets are requested."""

    ids: np.ndarray  # int32 [n]
    type_ids: np.ndarray  # int32 [n]
    # int32 [n, 2], [start, end) of each token in characters of its original text, (0, 0) for added special tokens
    offsets: np.ndarray = NO_OFFSETS
    # int8 [n], 0 or 1 for tokens of the first or second text, -1 for added special tokens
    sequence: np.ndarray = np.empty(0, np.int8)
    is_truncated: bool = False


def as_list(texts: Iterable[str], name: str = "texts") -> list[str]:
    """The texts as a list; ValueError, which has the argument's name, for anything but an ordered series of strings.

    The libraries would take a tuple of two texts for a pair, and each character of a string for a text.
    """
    if isinstance(texts, str | bytes):
        raise ValueError(f"{name} is one {type(texts).__name__}, not a list of strings; put it in a list")
    if not isinstance(texts, Iterable) or isinstance(texts, Mapping | Set):
        raise ValueError(f"{name} is {texts!r:.60}, not a list of strings; give a list")
    listed = list(texts)
    for number, text in enumerate(listed):
        if not isinstance(text, str):
            advice = "give second texts as pairs" if isinstance(text, list | tuple) else "pass a list of strings"
            raise ValueError(f"{name.removesuffix('s')} {number} is {text!r:.60}, not a string; {advice}")
    return listed


def raise_invalid_text(texts: Sequence[str], error: BaseException, first: int = 0) -> NoReturn:
    """Raise ValueError that names the first text, by its index from `first`, which is not valid Unicode.

    If all are valid, or the error is an interrupt, the error itself is raised.
    """
    if not isinstance(error, Exception):
        raise error
    for number, text in enumerate(texts, first):
        if not isinstance(text, str):
            raise ValueError(f"text {number} is {text!r}, not a string; pass a list of strings") from error
        for position, character in enumerate(text):
            if "\ud800" <= character <= "\udfff":
                problem = f"text {number} has a lone surrogate (U+{ord(character):04X}) at character {position}"
                advice = "decode the source with errors='replace' or remove it"
                raise ValueError(f"{problem}, which is not valid Unicode; {advice}") from error
    raise error


def special_tokens(
    vocab: Collection[str], names: Mapping[str, str | None], source: str, required: Collection[str] = ()
) -> dict[str, str]:
    """Find the token of each role in a vocabulary; ValueError for a vocabulary that lacks one of the required roles.

    `names` has the tokens of some roles, from a configuration, or None for a role without a token; the usual names
    apply to other roles.
    """
    candidates = {role: (names[role],) if role in names else USUAL_NAMES[role] for role in ROLES}
    # reversed: a later item replaces an earlier one, so that the first candidate in the vocabulary wins.
    tokens = {role: token for role in ROLES for token in reversed(candidates[role]) if token and token in vocab}
    missing = [role for role in ROLES if role in required and role not in tokens]
    if missing:
        descriptions = [" or ".join(map(str, candidates[role])) for role in missing]
        keys = ", ".join(f"{role}_token" for role in missing)
        raise ValueError(f"{source} has no {', no '.join(descriptions)}; name it as {keys} in tokenizer_config.json")
    return tokens


def truncate(encoding: Encoding, sequence: np.ndarray, max_length: int, side: str = "right") -> Encoding:
    """Drop tokens of the longer text until max_length tokens remain; added special tokens are kept.

    `side` is the end of the text that is dropped, right or left. `sequence` is that of `Encoding`, which is empty there
    unless offsets are requested.
    """
    counts = np.array([np.sum(sequence == part) for part in (0, 1)])
    room = max_length - int(np.sum(sequence == -1))
    if room < 0:
        raise ValueError(f"max_length is {max_length}, shorter than the special tokens alone; give a larger one")
    # The shorter text keeps up to half of the room, the longer one the rest. In a tie the second has the odd token.
    shorter_limit = min(int(counts.min()), room // 2)
    limits = [shorter_limit, room - shorter_limit]
    if counts[0] > counts[1]:
        limits.reverse()
    keep = sequence == -1
    for part, limit in enumerate(limits):
        positions = np.flatnonzero(sequence == part)
        keep[positions[max(0, len(positions) - limit) :] if side == "left" else positions[:limit]] = True
    return Encoding(*(field[keep] for field in encoding[:4] if len(field)), is_truncated=True)


def is_spaceless(text: str) -> bool:
    """Whether a text begins in a script without spaces between words: Chinese, Japanese, Thai and others.

    A vowel sign or tone mark belongs to the character before it and does not count.
    """
    if not text or unicodedata.category(text[0]) in ("Mn", "Mc", "Lm"):
        return False
    return any(first <= ord(text[0]) <= last for first, last in _SPACELESS)
