"""The negatives of queries: exact search in blocks on the device, then limits of scores and ranks.

Selection as in sentence-transformers' mine_hard_negatives; margins as in NV-Retriever, de Souza P. Moreira et al. 2024,
arXiv:2407.15831.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from jaxencoder.inference.search import Nearest
from jaxencoder.inference.stored_vectors import Vectors
from jaxencoder.mining.config import MiningConfig
from jaxencoder.model.sentence import Similarity
from jaxencoder.model.similarity import pair_similarities, unit
from jaxencoder.text.buckets import padded_size

_QUERIES = 1024  # searched at once

# Scores float [n] of pairs, given as positions of their queries and documents, int [n] each.
Rescore = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Negatives(NamedTuple):
    """The negatives of one query, best first, and the scores of its positives."""

    documents: np.ndarray  # positions, int [n], n at most `num_negatives`
    scores: np.ndarray  # float32 [n]
    positive_scores: np.ndarray  # float32 [P], in the order of its positives


@dataclass
class Searched:
    """Queries and documents as vectors.

    Attributes:
        similarity: of two vectors.
        queries: vectors of the queries.
        documents: vectors of the texts to search.
        positives: of each query, positions among the documents.
        excluded: of some queries, positions of other documents that are no negatives.
        rescore: replaces the similarities; None keeps them.
    """

    similarity: Similarity
    queries: Vectors
    documents: Vectors
    positives: Sequence[Sequence[int]]
    excluded: Mapping[int, Sequence[int]] = field(default_factory=dict)
    rescore: Rescore | None = None

    def barred(self, query: int) -> list[int]:
        """The documents that are no negatives of a query."""
        return [*self.positives[query], *self.excluded.get(query, ())]


def mine_negatives(searched: Searched, config: MiningConfig, counts: Counter[str]) -> Iterator[list[Negatives]]:
    """The negatives of all queries, in order and in blocks; `counts` grows by the candidates that limits leave out.

    The names of counts are those of the settings. Memory holds one block of queries, with its best candidates.
    """
    queries = range(len(searched.queries))
    most_positives = max(map(len, searched.positives))
    candidates = config.candidates(most_positives, searched.rescore is not None)
    depth = min(candidates + max(len(searched.barred(query)) for query in queries), len(searched.documents))
    for start in range(0, len(queries), _QUERIES):
        block = queries[start : start + _QUERIES]
        yield list(_block(searched, block, depth, candidates, config, counts))


def _block(
    searched: Searched, queries: range, depth: int, candidates: int, config: MiningConfig, counts: Counter[str]
) -> Iterator[Negatives]:
    """The negatives of a block of queries, among the `depth` nearest documents of each."""
    vectors = searched.queries.take(np.array(queries))
    nearest = _nearest(searched, vectors, depth)
    documents = []  # of each query: its positives, then its candidates
    for query, row in zip(queries, nearest.indices, strict=False):  # without rows of padding
        nearby = row[(row >= 0) & ~np.isin(row, searched.barred(query))]
        documents.append(np.concatenate([searched.positives[query], nearby]).astype(np.int64))
    rescored = _rescored(searched.rescore, queries, documents)
    for i, query in enumerate(queries):
        count, texts = len(searched.positives[query]), searched.documents.take(documents[i])
        scores = pair_similarities(searched.similarity, vectors[i : i + 1], texts) if rescored is None else rescored[i]
        scores, directions = scores.astype(np.float32), unit(texts)
        closeness = (directions[count:] @ directions[:count].T).max(1, initial=-1)
        pool = _Pool(documents[i][count:], scores[count:], closeness, scores[:count])
        yield _choose(pool, candidates, config, np.random.default_rng([config.seed, query]), counts)


def _rescored(rescore: Rescore | None, queries: range, documents: list[np.ndarray]) -> list[np.ndarray] | None:
    """New scores of each query's documents; None to keep the similarities."""
    if rescore is None:
        return None
    sizes = [len(row) for row in documents]
    scores = rescore(np.repeat(np.array(queries), sizes), np.concatenate(documents))
    return np.split(scores, np.cumsum(sizes)[:-1])


def _nearest(searched: Searched, vectors: np.ndarray, depth: int) -> Nearest:
    """The nearest documents of a block of queries; rows of padding keep one compiled program for all blocks."""
    size = min(padded_size(len(searched.queries)), padded_size(_QUERIES))
    vectors = np.pad(vectors, ((0, size - len(vectors)), (0, 0)))
    nearest = Nearest.empty(size, depth)
    for part in searched.documents.blocks():
        nearest = nearest.updated(vectors, part, searched.similarity)
    return nearest


class _Pool(NamedTuple):
    """The candidates of one query."""

    documents: np.ndarray  # int [n]
    scores: np.ndarray  # float32 [n]
    closeness: np.ndarray  # the highest cosine with a positive, float [n]
    positive_scores: np.ndarray  # float32 [P]


def _choose(
    pool: _Pool, candidates: int, config: MiningConfig, random: np.random.Generator, counts: Counter[str]
) -> Negatives:
    """The negatives of one query among its candidates."""
    lowest_positive = pool.positive_scores.min()
    # What each setting leaves out, in this order.
    limits: dict[str, Callable[[float], np.ndarray]] = {
        "drop_near_duplicates": lambda _: pool.closeness >= config.near_duplicate,
        "absolute_margin": lambda margin: pool.scores + np.float32(margin) > lowest_positive,
        "relative_margin": lambda margin: pool.scores > lowest_positive - abs(lowest_positive) * np.float32(margin),
        "max_score": lambda limit: pool.scores > np.float32(limit),
        "min_score": lambda limit: pool.scores < np.float32(limit),
    }
    is_kept = np.ones(len(pool.documents), bool)
    for name, is_out in limits.items():
        setting = getattr(config, name)
        if setting is None or setting is False:
            continue
        left_out = is_kept & is_out(setting)
        counts[name] += int(left_out.sum())
        is_kept &= ~left_out
    order = np.flatnonzero(is_kept)
    order = order[np.argsort(-pool.scores[order], kind="stable")][config.range_min : candidates]
    if config.sampling == "random" and len(order) > config.num_negatives:
        order = order[np.sort(random.choice(len(order), config.num_negatives, replace=False))]
    order = order[: config.num_negatives]
    counts["near_duplicates"] += int((pool.closeness[order] >= config.near_duplicate).sum())
    return Negatives(pool.documents[order], pool.scores[order], pool.positive_scores)
