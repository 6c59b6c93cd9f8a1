"""Settings of hard-negative mining.

The texts nearest to a query, without its positives, pass the limits of scores. Of those that are left, best first,
ranks from `range_min` to `range_max` are candidates. With several positives, margins are below the least similar.
"""

import math
from dataclasses import dataclass
from typing import Literal

Sampling = Literal["top", "random"]


@dataclass(frozen=True)
class MiningConfig:
    """Which of the texts nearest to a query become its negatives; ValueError for a setting outside its range."""

    num_negatives: int = 3
    """Negatives of each query."""
    range_min: int = 0
    """Best candidates to leave out: they may be positives that nobody has labeled."""
    range_max: int = 0
    """Candidates to look at, those left out included. 0: enough to find the negatives."""
    min_score: float | None = None
    """Lowest score of a negative."""
    max_score: float | None = None
    """Highest score of a negative."""
    absolute_margin: float | None = None
    """How far a negative's score must be below the positive's, at least."""
    relative_margin: float | None = None
    """The same as a fraction of the positive's score: 0.05 in NV-Retriever."""
    sampling: Sampling = "top"
    """Take the best candidates, or random ones."""
    seed: int = 0
    """Seed of random negatives."""
    complete: bool = False
    """Write only records with all negatives, as sentence-transformers needs."""
    near_duplicate: float = 0.95
    """Cosine with a positive from which a negative counts as its near duplicate."""
    drop_near_duplicates: bool = False
    """Leave out such negatives."""

    def __post_init__(self) -> None:
        for name, least in (("num_negatives", 1), ("range_min", 0), ("range_max", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least {least}")
        for name in ("min_score", "max_score", "absolute_margin", "relative_margin", "near_duplicate"):
            if (value := getattr(self, name)) is not None and not math.isfinite(value):
                raise ValueError(f"{name} is {value}; give a finite number")
        if self.sampling not in ("top", "random"):
            raise ValueError(f"sampling is {self.sampling!r}; choose top or random")
        if self.range_max and self.range_max - self.range_min < self.num_negatives:
            room = max(0, self.range_max - self.range_min)
            problem = f"ranks from range_min {self.range_min} to range_max {self.range_max} hold {room} texts"
            raise ValueError(f"{problem}, not the {self.num_negatives} of num_negatives; raise range_max")
        if self.min_score is not None and self.max_score is not None and self.min_score > self.max_score:
            raise ValueError(f"min_score {self.min_score} is above max_score {self.max_score}; swap them")

    def candidates(self, positives: int, rescored: bool = False) -> int:
        """`range_max`, or for 0 the ranks that suffice for queries of at most this many positives."""
        if self.range_max:
            return self.range_max
        limits = (self.max_score, self.absolute_margin, self.relative_margin)
        needs_more = rescored or self.drop_near_duplicates or any(limit is not None for limit in limits)
        needs_more |= self.sampling == "random"
        return self.range_min + self.num_negatives * (10 if needs_more else 1) + positives


@dataclass(frozen=True)
class MiningData:
    """Queries with texts that answer them, and the texts to search.

    Attributes:
        sources: of records with a query and a positive, as in `jaxencoder.text.sources`, or BEIR folders, whose
            relevance judgments say which documents answer a query. Records of one query are its positives together.
        corpus: sources of more texts to search, or BEIR folders. The positives of all queries, and the corpus of a
            folder in `sources`, are searched anyway.
        split: of the relevance judgments.
        text_field, pair_field: of the query and the positive; empty: usual names.
        corpus_field: of the texts in `corpus`.
    """

    sources: tuple[str, ...]
    corpus: tuple[str, ...] = ()
    split: str = "train"
    text_field: str = ""
    pair_field: str = ""
    corpus_field: str = "text"
