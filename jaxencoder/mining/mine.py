"""Hard negatives for pairs of queries and texts that answer them, from file to file."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from jaxencoder.inference.load import opened
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import DEFAULT_OPTIONS, EmbedOptions
from jaxencoder.inference.rerank import check_cross_encoder, score_pairs
from jaxencoder.inference.search import search_options
from jaxencoder.inference.stored_vectors import cached_numbers, model_digest, text_vectors
from jaxencoder.inference.writers import open_writer
from jaxencoder.mining.config import MiningConfig, MiningData
from jaxencoder.mining.data import Pairs, read_pairs
from jaxencoder.mining.negatives import Negatives, Rescore, Searched, mine_negatives
from jaxencoder.model.similarity import check_finite
from jaxencoder.text.cache import cache_folder
from jaxencoder.text.config import DataConfig
from jaxencoder.text.sources import Record

_SCORES = "scores"


def mine(
    model: str | Path | OpenedModel,
    data: str | Sequence[str] | MiningData,
    output: str | Path,
    config: MiningConfig | None = None,
    cross_encoder: str | Path | OpenedModel | None = None,
    options: EmbedOptions = DEFAULT_OPTIONS,
    query_prompt: str | None = None,
    cache: str = "",
) -> dict[str, float]:
    """Write pairs with texts that a model finds similar to the query but that are no positives of it.

    Each query is compared with all texts, by the model's similarity. A text that is equal to the query or to one of its
    positives is no negative, nor is a document of a BEIR folder that has the query's id. Records have the fields of the
    pair, negative_1, negative_2, ..., and scores: of the query with the positive, then with each negative. Numbers
    equal those of sentence-transformers' mine_hard_negatives, which takes the cosine whatever the model's similarity.

    Args:
        model: anything that `load` takes, or an open model.
        data: sources of pairs or BEIR folders, or a `MiningData` with more settings.
        output: .jsonl or .parquet file, which appears once it is complete.
        config: which texts become negatives; None: the defaults of `MiningConfig`.
        cross_encoder: gives the scores of the positives and of the nearest texts in place of the model.
        options: of the documents' vectors, and of the queries' apart from `prompt` and `windows`.
        query_prompt: as for `jaxencoder.inference.search.rank`.
        cache: folder of vectors and of the cross-encoder's scores, which make another run cheap. Empty: as for rows,
            $JAXENCODER_CACHE or ~/.cache/jaxencoder.

    Returns:
        Counts: queries, positives, documents; duplicates (equal documents) and empty (texts left out); candidates that
        each setting has left out, under its name; near_duplicates (negatives with a cosine of `near_duplicate` or more
        with a positive); incomplete (queries with fewer negatives than asked for); records, negatives; and the means
        positive_score and negative_score.

    Raises:
        ValueError: invalid data or settings, or a cross-encoder that gives no single score.
        OSError: a file cannot be read or written.
    """
    config, counts = config or MiningConfig(), Counter()
    if not isinstance(data, MiningData):
        data = MiningData((data,) if isinstance(data, str) else tuple(data))
    with open_writer(Path(output), vectors=False) as write:  # checked before anything that takes long
        pairs = read_pairs(data)
        folder = cache_folder(DataConfig(cache=cache)) / "vectors"
        searched = _searched(opened(model), pairs, options, query_prompt, folder)
        if cross_encoder is not None:
            searched.rescore = _rescorer(opened(cross_encoder), pairs, options.batch_tokens, folder)
        scores: list[np.ndarray] = []  # [n, 2] of a negative and its positive
        first = 0
        for block in mine_negatives(searched, config, counts):
            records = list(_records(pairs, first, block, config, counts))
            first += len(block)
            scores += [_pairs_of_scores(record[_SCORES]) for record in records]
            write(records)
        if not counts["records"]:
            raise ValueError("no query has a negative within the limits; widen range_max, margins or scores")
    means = dict(zip(("negative_score", "positive_score"), np.concatenate(scores).mean(0).tolist(), strict=True))
    sizes: dict[str, float] = {"queries": len(pairs.queries), "positives": sum(map(len, pairs.positives))}
    sizes |= {"documents": len(pairs.documents), "duplicates": pairs.duplicates, "empty": pairs.empty}
    return sizes | dict(counts) | means


def _searched(
    model: OpenedModel, pairs: Pairs, options: EmbedOptions, query_prompt: str | None, folder: Path
) -> Searched:
    """The queries and documents as vectors, which `folder` keeps."""
    digest = model_digest(model)
    query_options, document_options = search_options(model, options, query_prompt)
    queries = text_vectors(model, digest, pairs.queries, query_options, folder)
    documents = text_vectors(model, digest, pairs.documents, document_options, folder)
    positions = {text: i for i, text in enumerate(pairs.documents)}
    equal = {i: [positions[text]] for i, text in enumerate(pairs.queries) if text in positions}
    excluded = {i: [*equal.get(i, []), *pairs.same_ids.get(i, [])] for i in equal.keys() | pairs.same_ids.keys()}
    return Searched(model.sentence.similarity, queries, documents, pairs.positives, excluded)


def _rescorer(model: OpenedModel, pairs: Pairs, batch_tokens: int | None, folder: Path) -> Rescore:
    """The scores of a cross-encoder, which `folder` keeps; ValueError for a model of another kind."""
    check_cross_encoder(model)
    digest = model_digest(model)

    def rescore(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        firsts, seconds = [pairs.queries[i] for i in queries], [pairs.documents[i] for i in documents]
        compute = partial(score_pairs, model, firsts, seconds, batch_tokens)
        scores = cached_numbers(folder, [digest, firsts, seconds], compute)
        return check_finite(scores, "scores")

    return rescore


def _records(
    pairs: Pairs, first: int, block: list[Negatives], config: MiningConfig, counts: Counter[str]
) -> Iterator[Record]:
    """A record for each positive of the queries from number `first` on that have negatives."""
    least = config.num_negatives if config.complete else 1
    for query, negatives in enumerate(block, first):
        counts["incomplete"] += len(negatives.documents) < config.num_negatives
        if len(negatives.documents) < least:
            continue
        texts: Record = {f"negative_{i}": None for i in range(1, config.num_negatives + 1)}  # one set of columns
        texts |= {f"negative_{i}": pairs.documents[k] for i, k in enumerate(negatives.documents, 1)}
        for positive, score in zip(pairs.positives[query], negatives.positive_scores, strict=True):
            counts["records"] += 1
            counts["negatives"] += len(negatives.documents)
            record = dict(zip(pairs.fields, (pairs.queries[query], pairs.documents[positive]), strict=True))
            yield record | texts | {_SCORES: [float(score), *map(float, negatives.scores)]}


def _pairs_of_scores(scores: list[float]) -> np.ndarray:
    """The score of each negative of a record beside that of its positive, [n, 2], from the positive's and theirs."""
    positive, *negatives = scores
    return np.stack([np.array(negatives), np.full(len(negatives), positive)], axis=1)
