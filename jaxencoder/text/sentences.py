"""Sentence and word boundaries in any language, by Unicode's rules as ICU implements them.

Unicode Standard Annex 29, "Unicode text segmentation", section 5, with CLDR's abbreviations ("Mr." ends no sentence).
https://unicode-org.github.io/icu/userguide/boundaryanalysis
"""

import itertools
import re
from collections.abc import Iterator

import icu4py
from icu4py.breakers import SentenceBreaker, WordBreaker

ICU_VERSION = icu4py.icu_version  # boundaries may differ between versions
# The rules are the same in all languages. Only English abbreviations are known to help in their language and to do no
# harm in others.
_LOCALE = "en@ss=standard"
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_WRAP = re.compile(r"(?<=\S)[^\S\n]*\n[^\S\n]*(?=\S)")
# An opening bracket belongs to the next sentence. Unicode leaves it with the one before if no space is between.
_OPENING = "([{「『（［｛〔【〈《〖"
_CLAUSE_END = re.compile(r"[\u0e00-\u0eff](?=\s+[\u0e00-\u0eff])")


def split_sentences(text: str) -> list[str]:
    """Split a text into sentences, each with the space before it; joined they are the text.

    A line break ends a sentence, but not in a text with blank lines between paragraphs, whose lines are wrapped. Thai
    and Lao have no full stop; a space ends a clause, and the text is split there. ValueError for a lone surrogate.

    >>> split_sentences("Is it? Mr. No says it is.")
    ['Is it?', ' Mr. No says it is.']
    """
    # Line breaks within paragraphs become as many spaces, so that character positions stay.
    unwrapped = _WRAP.sub(lambda match: " " * len(match[0]), text) if _BLANK_LINE.search(text) else text
    end, ends = 0, set()
    for sentence in _segments(SentenceBreaker, unwrapped):
        if inked := len(sentence.rstrip().rstrip(_OPENING).rstrip()):
            ends.add(end + inked)
        end += len(sentence)
    if not text.isascii():
        ends.update(match.end() for match in _CLAUSE_END.finditer(text))
    last = len(text.rstrip())
    edges = [0, *sorted(end for end in ends if end < last), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)] if text else []


def word_spans(text: str) -> list[tuple[int, int]]:
    """Find the words and punctuation marks of a text in any script: [start, end) in characters, without spaces.

    >>> word_spans("Is it?")
    [(0, 2), (3, 5), (5, 6)]
    """
    spans, end = [], 0
    for segment in _segments(WordBreaker, text):
        if not segment.isspace():
            spans.append((end, end + len(segment)))
        end += len(segment)
    return spans


def _segments(breaker: type, text: str) -> Iterator[str]:
    try:
        yield from breaker(text, _LOCALE)
    except UnicodeEncodeError as error:
        problem = f"a text has a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}"
        advice = "decode the source with errors='replace' or remove it"
        raise ValueError(f"{problem}, which is not valid Unicode; {advice}") from error
