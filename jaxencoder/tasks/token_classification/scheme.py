"""What tags say of entities, read alike for every scheme.

    BIO (IOB2), IOB1, BIOES, BILOU, BMES, BMEWO, IOE1, IOE2    M is I, L is E, and U and W are S
    b-per, B_PER, PER-B    other cases, separators and orders
    B, I, O    without types, as for words in Chinese: the type is "_", as in seqeval
    PER, O    without marks: a run of equal tags is an entity

Tjong Kim Sang and Veenstra 1999, arXiv:cs/9907006; Ratinov and Roth 2009 (BILOU), aclanthology.org/W09-1119.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxencoder.text.messages import listed

log = logging.getLogger(__name__)

OUTSIDE = "O"
UNTYPED = "_"
_MARKS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}
_LETTERS = "".join(_MARKS)
_MARK_FIRST = re.compile(rf"(?P<mark>[{_LETTERS}])[-_](?P<kind>.+)", re.IGNORECASE | re.DOTALL)
_TYPE_FIRST = re.compile(rf"(?P<kind>.+)[-_](?P<mark>[{_LETTERS}])", re.IGNORECASE | re.DOTALL)
_UNTYPED = re.compile(rf"(?P<mark>[{_LETTERS}])(?P<kind>)", re.IGNORECASE)
# A tag set of words, each of which is a type. Single letters and signs are parts of speech or punctuation.
_UNMARKED = re.compile(r"(?P<mark>)(?P<kind>\w.*\w)", re.DOTALL)


class Tag(NamedTuple):
    """A tag as all schemes read it: mark B, I, E, S or O, "" for a tag of no scheme; and the type of the entity."""

    mark: str
    kind: str = ""


STRAY = Tag("")


def tag_pattern(tags: Sequence[str]) -> re.Pattern[str] | None:
    """The pattern of a tag set: of most of its tags other than O. None if they mark no entities: parts of speech, O."""
    inside = [tag for tag in tags if tag.upper() != OUTSIDE]
    has_outside = len(inside) < len(tags)
    counts = {pattern: sum(map(bool, map(pattern.fullmatch, inside))) for pattern in (_MARK_FIRST, _TYPE_FIRST)}
    pattern = max(counts, key=lambda pattern: counts[pattern])
    if not inside:
        return None
    if 2 * counts[pattern] >= len(inside):
        return pattern
    if all(map(_UNTYPED.fullmatch, inside)):
        return _UNTYPED
    return _UNMARKED if has_outside and all(map(_UNMARKED.fullmatch, inside)) else None


def read_tag(tag: str, pattern: re.Pattern[str]) -> Tag:
    """The tag by the pattern of its tag set."""
    if tag.upper() == OUTSIDE:
        return Tag(OUTSIDE)
    if not (match := pattern.fullmatch(tag)):
        return STRAY
    return Tag(_MARKS.get(match["mark"].upper(), "I"), match["kind"] or UNTYPED)


def read_tags(names: Sequence[str], data: Sequence[str]) -> dict[str, Tag] | None:
    """The tags of a model and of data, in the order of the names, then the others; None if the names mark no entities.

    The data may be in another scheme, and write types in another case.
    """
    other_pattern = tag_pattern(data)
    pattern = (other_pattern or _MARK_FIRST) if set(map(str.upper, names)) <= {OUTSIDE} else tag_pattern(names)
    if pattern is None:
        return None
    readings = {name: read_tag(name, pattern) for name in names}
    kinds = {tag.kind.casefold(): tag.kind for tag in readings.values()}
    for tag in sorted(set(data) - readings.keys()):
        reading = read_tag(tag, other_pattern) if other_pattern else STRAY
        reading = read_tag(tag, pattern) if reading == STRAY else reading
        readings[tag] = reading._replace(kind=kinds.get(reading.kind.casefold(), reading.kind))
    return readings


class Scheme(NamedTuple):
    """What each tag of a tag set says of entities: arrays [tags] and names."""

    outside: np.ndarray  # bool, part of no entity
    opens: np.ndarray  # bool, the first word of an entity, whatever precedes it
    closes: np.ndarray  # bool, the last word of an entity
    kind: np.ndarray  # int, index of the entity's type in `kinds`
    kinds: tuple[str, ...]
    ids: Mapping[str, int]  # of the tags
    strays: tuple[str, ...]  # tags of no scheme, which are outside of entities

    @classmethod
    def of(cls, tags: Sequence[str]) -> "Scheme | None":
        """The scheme of a tag set; None if it marks no entities, such as parts of speech."""
        pattern = tag_pattern(tags)
        return None if pattern is None else cls.of_readings({tag: read_tag(tag, pattern) for tag in tags})

    @classmethod
    def of_readings(cls, readings: Mapping[str, Tag]) -> "Scheme":
        """The scheme of tags that are read already."""
        marks, kinds = np.array([x.mark for x in readings.values()]), sorted({x.kind for x in readings.values()})
        return cls(
            outside=np.isin(marks, (OUTSIDE, STRAY.mark)),
            opens=np.isin(marks, ("B", "S")),
            closes=np.isin(marks, ("E", "S")),
            kind=np.array([kinds.index(x.kind) for x in readings.values()]),
            kinds=tuple(kinds),
            ids={tag: i for i, tag in enumerate(readings)},
            strays=tuple(tag for tag, x in readings.items() if x == STRAY),
        )


def warn_of_strays(names: Sequence[str]) -> Scheme | None:
    """Return the scheme of a tag set; a warning names its tags that belong to no scheme."""
    scheme = Scheme.of(names)
    if scheme is not None and scheme.strays:
        log.warning("Tags of no scheme, outside of entities: %s.", listed(scheme.strays)[:200])
    return scheme
