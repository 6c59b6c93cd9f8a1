"""Runs of embeddings: trained, measured, used, and opened by sentence-transformers."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxencoder
from jaxencoder.config import ComputeConfig, DataConfig, Embeddings, EncoderConfig, RunConfig, TokenizerConfig
from jaxencoder.evaluation.evaluate import evaluate
from jaxencoder.inference.predict import predict
from jaxencoder.tasks.embeddings.examples import examples
from jaxencoder.tasks.embeddings.predict import ranking_metrics, text_vectors
from jaxencoder.training.setup import set_up
from tests.tasks.conftest import Trained, run_on_records, untrained, write_records

PROMPTS = {"query_prompt": "a: ", "document_prompt": "the river: ", "include_prompt": False}
RIVERS = ["Elbe", "Spree", "Oder", "Rhine", "Main", "Isar"]
FILLERS = ["the", "a", "river", "in", "of"]


def text_of(random, river: str) -> str:
    return " ".join(random.permutation([river, *random.choice(FILLERS, 3)]))


@pytest.fixture(scope="module")
def trained(home) -> Trained:
    """A text is similar to another one that names the same river."""

    def make(random):
        river, other = random.choice(RIVERS, 2, replace=False)
        texts = (text_of(random, name) for name in (river, river, other))
        return dict(zip(("anchor", "positive", "negative"), texts, strict=True))

    data = DataConfig(text_field="anchor", pair_field="positive")
    return run_on_records(home / "embeddings", Embeddings(parts=2, pooling="max", **PROMPTS), data, make, steps=60)


def test_training_finds_the_similar_text(trained: Trained, tmp_path) -> None:
    assert trained.result["accuracy"] > 0.15  # equal rivers of other examples count as errors
    random = np.random.default_rng(2)
    pairs = [{"anchor": text_of(random, river), "positive": text_of(random, river)} for river in RIVERS]
    metrics = evaluate(trained.folder, write_records(tmp_path / "pairs.jsonl", pairs), output=tmp_path / "results.json")
    assert metrics["accuracy"] == metrics["mrr"] == 1 and metrics["texts"] == metrics["examples"] == 6


def test_one_pair_by_a_run_in_parts(trained: Trained) -> None:
    (record,) = predict(trained.folder, [{"anchor": "the Elbe", "positive": "the Elbe"}])
    assert record["similarity"] > 0.5


def test_scores_of_pairs(trained: Trained, tmp_path) -> None:
    """The similarity agrees with whether the rivers are equal, in `evaluate` and in `predict`."""
    random = np.random.default_rng(3)
    pairs = []
    for _ in range(40):
        a, b = random.choice(RIVERS, 2)
        pairs.append({"anchor": text_of(random, a), "positive": text_of(random, b), "score": float(a == b)})
    source = write_records(tmp_path / "scored.jsonl", pairs)
    metrics = evaluate(trained.folder, source, label_field="score", output=tmp_path / "results.json")
    assert metrics["pearson"] > 0.8 and metrics["examples"] == 40
    predicted = list(predict(trained.folder, [{**pair, "id": i} for i, pair in enumerate(pairs)]))
    model = jaxencoder.load(trained.folder)
    names = {"anchor": "query", "positive": "document"}
    a, b = (model.embed([pair[name] for pair in pairs], normalize=True, prompt=names[name]) for name in names)
    np.testing.assert_allclose([record["similarity"] for record in predicted], (a * b).sum(1), atol=1e-5)
    assert [record["id"] for record in predicted] == list(range(40))
    with pytest.raises(ValueError, match="already have a field 'similarity'"):
        list(predict(trained.folder, predicted))


def test_sentence_transformers_opens_it(trained: Trained, tmp_path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = jaxencoder.load(trained.folder)
    assert model.sentence.pooling == ("max",)
    model.save(tmp_path / "saved", format="sentence-transformers")
    texts = ["the Elbe", "a river in the Oder", "Isar"]
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(theirs.encode(texts), model.embed(texts), atol=1e-5)
    np.testing.assert_allclose(theirs.encode_query(texts), model.embed(texts, prompt="query"), atol=1e-5)
    np.testing.assert_allclose(theirs.encode_document(texts), model.embed(texts, prompt="the river: "), atol=1e-5)
    np.testing.assert_array_equal(jaxencoder.load(tmp_path / "saved").embed(texts), model.embed(texts))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rows_longer_than_the_positions(tmp_path) -> None:
    """A batch has the vectors of sentence-transformers with max_seq_length, at which each text is truncated."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(RIVERS, 2 + 5 * i)) for i in range(4)]
    record = {"anchor": texts[0], "positive": texts[1], "negatives": texts[2:]}
    source = (write_records(tmp_path / "pairs.jsonl", [record] * 2),)
    data = DataConfig(source, validation=source, text_field="anchor", pair_field="positive", workers=1)
    data = dataclasses.replace(data, row_length=80, text_length=12, cache=str(tmp_path / "cache"))
    size = {"num_layers": 1, "hidden_size": 32, "mlp_size": 32, "num_heads": 2, "max_length": 16}
    config = RunConfig(
        model=EncoderConfig(**size),
        compute=ComputeConfig(dtype="float32"),
        objective=Embeddings(),
        tokenizer=TokenizerConfig(vocab_size=80),
        data=data,
    )
    untrained(config, tmp_path / "run")
    model = jaxencoder.load(tmp_path / "run")
    model.save(tmp_path / "saved", format="sentence-transformers")
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert model.max_length == theirs.max_seq_length == 12
    setup = set_up(config, tmp_path / "other")
    batch = setup.validation[0].read(np.arange(1))
    vectors = jax.jit(setup.objective.scores, static_argnums=3)(model.params, batch, jax.random.key(0), False)
    (example, *_), _, _ = examples(vectors, batch)
    assert batch["token_ids"].shape == (1, 80) and np.bincount(batch["segment_ids"][0])[1:].max() == 12
    np.testing.assert_allclose(example, theirs.encode(texts), atol=1e-5)


def test_ranking_metrics() -> None:
    """Other positives of an anchor and the anchor itself are not ranked; a tie counts as ranked before."""
    vectors = np.array([[1, 0], [0.9, 0.1], [0.8, 0.1], [0, 1], [1, 1], [0.1, 0.9]])
    metrics = ranking_metrics(vectors, [[0, 1], [0, 2], [3, 5], [1, 0, 2]], "cosine")
    # The documents are 0, 1, 2 and 5. For 1 as the anchor, 2 is nearer than 0.
    assert metrics == {"accuracy": 0.75, "mrr": (3 + 1 / 2) / 4, "texts": 4, "examples": 4}
    assert ranking_metrics(np.ones((4, 2)), [[0, 1], [2, 3]], "dot")["mrr"] == 0.5


def test_other_models_and_records(trained: Trained, classifier: Trained) -> None:
    with pytest.raises(ValueError, match="record 1: no field 'positive' among anchor"):
        list(predict(trained.folder, [{"anchor": "a"}]))
    with pytest.raises(ValueError, match="k is 3, which is no option of embedding"):
        list(predict(trained.folder, [{"anchor": "a", "positive": "b"}], k=3))


def test_a_diverged_run_is_not_measured(trained: Trained) -> None:
    """NaN is neither more nor less similar, so that each positive would be the first."""
    model = jaxencoder.load(trained.folder)
    broken = dataclasses.replace(model, params=jax.tree.map(lambda x: np.full_like(x, np.nan), model.params))
    with pytest.raises(ValueError, match="the vectors hold numbers that are not finite"):
        text_vectors(broken, ["the Elbe"])
