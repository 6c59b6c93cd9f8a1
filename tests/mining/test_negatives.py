"""Negatives equal those of sentence-transformers on the same vectors, under all limits."""

import sys
import types
from collections import Counter

import numpy as np
import pytest

from jaxencoder.inference import search
from jaxencoder.inference.stored_vectors import Vectors
from jaxencoder.mining import negatives
from jaxencoder.mining.config import MiningConfig
from jaxencoder.mining.negatives import Searched, mine_negatives

torch = pytest.importorskip("torch")
util = pytest.importorskip("sentence_transformers.util")

QUERIES, DOCUMENTS, SIZE = 12, 40, 6


class Columns(dict):
    """The parts of `datasets.Dataset` that sentence-transformers uses here."""

    from_dict = classmethod(lambda cls, columns: cls(columns))
    column_names = property(list)

    def __len__(self) -> int:
        return len(next(iter(self.values())))

    def to_pandas(self):
        return self

    def groupby(self, name):
        return types.SimpleNamespace(count=lambda: self._counts(self[name]))

    def _counts(self, keys):
        return types.SimpleNamespace(to_dict=lambda: {key: dict(Counter(keys)) for key in self})


class Embedder:
    """A model whose vectors are given."""

    device = "cpu"
    similarity, similarity_pairwise = staticmethod(util.cos_sim), staticmethod(util.pairwise_cos_sim)

    def __init__(self, vectors: dict[str, np.ndarray]):
        self.vectors = vectors

    def encode_document(self, texts, **options):
        vectors = np.array([self.vectors[text] for text in texts])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    encode_query = encode_document


class CrossEncoder:
    """Scores that are a fixed function of the two texts."""

    def predict(self, pairs, **options):
        return torch.tensor([score(*pair) for pair in pairs])


def score(query: str, document: str) -> float:
    return float(np.cos(7 * int(query[1:]) + 3 * int(document[1:])))


def example() -> tuple[dict[str, np.ndarray], list[list[int]]]:
    """Vectors of queries q0, q1, ... and documents d0, d1, ..., and one to three positives of each query."""
    random = np.random.default_rng(0)
    names = [*(f"q{i}" for i in range(QUERIES)), *(f"d{i}" for i in range(DOCUMENTS))]
    vectors = dict(zip(names, random.standard_normal((len(names), SIZE), np.float32), strict=True))
    positives = [random.choice(DOCUMENTS, 1 + i % 3, replace=False).tolist() for i in range(QUERIES)]
    for i, own in enumerate(positives):
        for k in own:
            vectors[f"d{k}"] += 1.5 * vectors[f"q{i}"]
    return vectors, positives


def ours(config: MiningConfig, rescored: bool = False, counts: Counter | None = None) -> list:
    vectors, positives = example()
    part = lambda letter, n: Vectors(np.array_split([vectors[f"{letter}{i}"] for i in range(n)], 2))  # noqa: E731
    rescore = lambda queries, documents: np.array(  # noqa: E731
        [score(f"q{q}", f"d{d}") for q, d in zip(queries, documents, strict=True)]
    )
    searched = Searched(
        "cosine", part("q", QUERIES), part("d", DOCUMENTS), positives, {}, rescore if rescored else None
    )
    return [x for block in mine_negatives(searched, config, Counter() if counts is None else counts) for x in block]


@pytest.mark.parametrize(
    ("settings", "rescored"),
    [
        ({}, False),
        ({"num_negatives": 5, "range_min": 2}, False),
        ({"relative_margin": 0.05, "range_max": 9}, False),
        ({"absolute_margin": 0.1, "max_score": 0.6, "min_score": -0.2}, False),
        ({"relative_margin": 0.1, "absolute_margin": 0.2, "num_negatives": 2}, True),
        ({"min_score": 0.1, "range_max": 30}, True),
    ],
    ids=str,
)
def test_as_sentence_transformers(settings, rescored, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(Dataset=Columns))
    monkeypatch.setattr("sentence_transformers.util.hard_negatives.is_datasets_available", lambda: True)
    monkeypatch.setattr(negatives, "_QUERIES", 5)
    vectors, positives = example()
    pairs = [(f"q{i}", f"d{k}") for i, own in enumerate(positives) for k in own]
    theirs = util.mine_hard_negatives(
        Columns(zip(("anchor", "positive"), map(list, zip(*pairs, strict=True)), strict=True)),
        Embedder(vectors),
        corpus=[f"d{i}" for i in range(DOCUMENTS)],
        cross_encoder=CrossEncoder() if rescored else None,
        output_scores=True,
        verbose=False,
        **{"range_max": None} | settings,
    )
    expected = list(zip(*(theirs[name] for name in ("anchor", "positive", "negative")), strict=True))
    found, scores = [], []
    for query, (mined, own) in enumerate(zip(ours(MiningConfig(**settings), rescored), positives, strict=True)):
        for k, positive_score in zip(own, mined.positive_scores, strict=True):
            found += [(f"q{query}", f"d{k}", f"d{n}") for n in mined.documents]
            scores += [(positive_score, s) for s in mined.scores]
    assert found == expected and len(found) > QUERIES
    np.testing.assert_allclose(scores, theirs["scores"], atol=1e-6)


def test_random_negatives_are_a_function_of_the_seed() -> None:
    config = MiningConfig(sampling="random", range_max=20, num_negatives=4)
    top, first, again, other = (
        [x.documents.tolist() for x in ours(c)]
        for c in (
            MiningConfig(range_max=20, num_negatives=20),
            config,
            config,
            MiningConfig(**vars(config) | {"seed": 1}),
        )
    )
    assert first == again != other
    for chosen, all_of_them in zip(first, top, strict=True):
        assert [k for k in all_of_them if k in chosen] == chosen and len(chosen) == 4


def test_random_negatives_have_others_to_choose_from() -> None:
    assert MiningConfig(num_negatives=3).candidates(1) == 4
    assert MiningConfig(num_negatives=3, sampling="random").candidates(1) == 31


def test_what_is_left_out_is_counted(monkeypatch) -> None:
    monkeypatch.setattr(search, "_SCORES", 1 << 6)  # blocks of two documents
    counts: Counter[str] = Counter()
    mined = ours(MiningConfig(max_score=0.5, near_duplicate=0.5, range_max=40, num_negatives=40), counts=counts)
    vectors, positives = example()
    left_out = near = 0
    for query, own in enumerate(positives):
        rest = [k for k in range(DOCUMENTS) if k not in own]
        cosines = util.cos_sim(vectors[f"q{query}"], np.array([vectors[f"d{k}"] for k in rest]))[0].numpy()
        assert len(mined[query].documents) == (cosines <= 0.5).sum()
        left_out += int((cosines > 0.5).sum())
        kept, known = (np.array([vectors[f"d{k}"] for k in ks]) for ks in (mined[query].documents, own))
        near += int((util.cos_sim(kept, known).max(1).values >= 0.5).sum())
    assert (counts["max_score"], counts["near_duplicates"]) == (left_out, near) and near
    without = ours(MiningConfig(near_duplicate=0.5, drop_near_duplicates=True, range_max=40, num_negatives=40))
    for query, own in enumerate(positives):
        kept, known = (np.array([vectors[f"d{k}"] for k in ks]) for ks in (without[query].documents, own))
        assert (util.cos_sim(kept, known) < 0.5).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_negatives": 0}, "num_negatives is 0; give at least 1"),
        ({"range_min": 8, "range_max": 9}, "range_min 8 to range_max 9 hold 1 texts, not the 3 of num_negatives"),
        ({"relative_margin": float("nan")}, "relative_margin is nan; give a finite number"),
        ({"sampling": "best"}, "sampling is 'best'; choose top or random"),
        ({"min_score": 0.5, "max_score": 0.2}, "min_score 0.5 is above max_score 0.2"),
    ],
)
def test_wrong_settings(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        MiningConfig(**settings)
