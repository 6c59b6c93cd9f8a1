"""Sentences of text in any language, by Unicode's rules, as ICU has them.

Unicode Standard Annex 29, "Unicode text segmentation", section 5: marks that end a sentence in every script; CLDR adds
that "Mr." and the like do not. https://unicode-org.github.io/icu/userguide/boundaryanalysis
"""

import itertools
import re
from collections.abc import Iterator

import icu4py
from icu4py.breakers import SentenceBreaker, WordBreaker

# The rules are the same in all languages. The abbreviations are not, but only those of English are known to help there
# and to do no harm elsewhere.
_LOCALE = "en@ss=standard"
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_WRAP = re.compile(r"(?<=\S)[^\S\n]*\n[^\S\n]*(?=\S)")
# Brackets that belong to what they open; Unicode leaves them with the sentence before where no space is between.
_OPENING = "([{「『（［｛〔【〈《〖"
_CLAUSE_END = re.compile(r"[\u0e00-\u0eff](?=\s+[\u0e00-\u0eff])")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, each with the space before it: joined they are the text.

    A line break ends a sentence, unless blank lines part the paragraphs: then lines are taken to be wrapped. Thai and
    Lao write no full stop but a space where a clause ends, and are split there.

    >>> split_sentences("Is it? Mr. No says it is.")
    ['Is it?', ' Mr. No says it is.']

    Raises:
        ValueError: the text is not valid Unicode.
    """
    end, ends = 0, set()
    for sentence in _segments(SentenceBreaker, _unwrapped(text)):
        if inked := len(sentence.rstrip().rstrip(_OPENING).rstrip()):
            ends.add(end + inked)
        end += len(sentence)
    if not text.isascii():
        ends.update(match.end() for match in _CLAUSE_END.finditer(text))
    last = len(text.rstrip())
    edges = [0, *sorted(end for end in ends if end < last), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)] if text else []


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where the words and marks of a text begin and end, in characters: those of any script, without the spaces.

    >>> word_spans("Is it?")
    [(0, 2), (3, 5), (5, 6)]

    Raises:
        ValueError: the text is not valid Unicode.
    """
    found, end = [], 0
    for segment in _segments(WordBreaker, text):
        if not segment.isspace():
            found.append((end, end + len(segment)))
        end += len(segment)
    return found


def _segments(breaker: type, text: str) -> Iterator[str]:
    try:
        yield from breaker(text, _LOCALE)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"a text has a lone surrogate (U+{ord(error.object[error.start]):04X}) at character {error.start}, which "
            "is not valid Unicode; decode the source with errors='replace' or remove it"
        ) from error


def icu_version() -> str:
    """The version of the rules: another one may split otherwise."""
    return icu4py.icu_version


def _unwrapped(text: str) -> str:
    """The text with spaces for the line breaks inside paragraphs; every other character stays in its place."""
    return _WRAP.sub(lambda match: " " * len(match[0]), text) if _BLANK_LINE.search(text) else text
