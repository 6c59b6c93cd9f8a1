"""Sources with losses of their own: the metrics of a batch of one of them, and the records that each needs."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxencoder.config import DataConfig, Embeddings, RunConfig, SparseEmbeddings
from jaxencoder.evaluation.evaluate import evaluate
from jaxencoder.model.sentence import SentenceConfig
from jaxencoder.objectives.objective import mean
from jaxencoder.tasks import table
from jaxencoder.tasks.embeddings.prompts import prompt_counter
from jaxencoder.tasks.task import TrainingLabels
from jaxencoder.text.buckets import shared_tokens
from jaxencoder.text.cache import prepare
from tests.tasks.conftest import train_tiny, write_records
from tests.tasks.embeddings.test_data import WORDS, examples_of, tokenizer  # noqa: F401  # a fixture
from tests.tasks.embeddings.test_objective import batch_of

LOSSES = ("ranking", "cosent", "ranking")
RECIPE = {"text_field": "anchor", "pair_field": "positive", "batch_sources": "one"}


def data_of(folder, **changes) -> DataConfig:
    """Pairs, and pairs with scores, with fields of other names."""
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, 3)) for _ in range(40)]
    pairs = [{"query": texts[i], "document": texts[i + 1], "label": 0.5} for i in range(39)]
    scored = [{"sentence1": texts[i], "sentence2": texts[i + 5], "score": i / 40} for i in range(35)]
    sources = write_records(folder / "pairs.jsonl", pairs), write_records(folder / "scored.jsonl", scored)
    return DataConfig(train=sources, **RECIPE | {"row_length": 48, "workers": 1} | changes)


def test_metrics_of_a_source() -> None:
    """Those of its loss alone; each batch counts equally. Rows of padding have no source."""
    vectors = np.random.default_rng(0).standard_normal((4, 6, 16)).astype(np.float32)
    objective = Embeddings(losses=LOSSES, scale=10.0, spread=0.5)
    alone = {loss: jax.jit(Embeddings(loss=loss, scale=10.0, spread=0.5).metrics) for loss in LOSSES}
    expected = [alone[loss](vectors, batch_of()) for loss in LOSSES]
    run = jax.jit(objective.metrics)
    for number, loss in enumerate(LOSSES):
        metrics = run(vectors, batch_of() | {"sources": np.array([number, number, -1, -1], np.int32)})
        assert mean(metrics) == pytest.approx(float(mean(expected[number])), rel=1e-6) and metrics["loss"][1] == 1
        assert mean(metrics, f"loss_{loss}") == pytest.approx(float(mean(expected[number])), rel=1e-6)
        other = next(name for name in LOSSES if name != loss)
        assert not metrics[f"loss_{other}"][1].any()
    assert run._cache_size() == 1
    nothing = batch_of() | {"tuples": np.full((4, 2, 3), -1), "sources": np.zeros(4, np.int32)}
    assert run(vectors, nothing)["loss"][1] == 0


def test_records_of_sources(tmp_path, tokenizer) -> None:  # noqa: F811
    """Each source has its fields and labels, and the same rows as alone."""
    objective, data = Embeddings(losses=LOSSES[:2]), data_of(tmp_path, validation_fraction=0.0)
    schema = table.schema_of(objective)
    schema.check(data)
    pairs, scored = prepare(data, tokenizer, "train", schema=schema)
    assert (pairs.number, scored.number) == (0, 1)
    assert all(np.isnan(label) for _, label in examples_of(pairs)) and pairs.meta["pieces"] == 39
    assert sorted(label for _, label in examples_of(scored)) == pytest.approx(np.arange(35) / 40)
    names = {"text_field": "sentence1", "pair_field": "sentence2", "label_field": "score", "batch_sources": "mixed"}
    alone = dataclasses.replace(data, train=data.train[1:], **names)
    (store,) = prepare(alone, tokenizer, "train", schema=table.schema_of(Embeddings(loss="cosent")))
    assert store.path == scored.path


def test_a_run(tmp_path) -> None:
    """Held-out losses and metrics of each source; the same command continues the run."""
    arguments = tmp_path / "run", Embeddings(losses=LOSSES[:2]), data_of(tmp_path, validation_fraction=0.2), 2
    trained = train_tiny(*arguments)
    assert train_tiny(*arguments).result == trained.result
    assert trained.result["loss_pairs"] == pytest.approx(trained.result["loss_ranking"], rel=1e-6)
    assert trained.result["loss_scored"] == pytest.approx(trained.result["loss_cosent"], rel=1e-6)
    losses = trained.result["loss_pairs"], trained.result["loss_scored"]
    assert trained.result["loss"] == pytest.approx(np.mean(losses))
    metrics = evaluate(trained.folder, output=tmp_path / "results.json")
    assert {"mrr_pairs", "spearman_scored"} <= metrics.keys()


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({"loss": "cosent"}, {}, "objective.loss is cosent, and objective.losses ranking cosent; set one of them"),
        ({"margin": 1.0}, {}, "objective.margin is 1.0, but objective.loss ranking and cosent has none; set triplet"),
        ({"losses": ("ranking", "triplet"), "similarity": "dot"}, {}, "objective.loss triplet compares distances"),
        ({}, {"batch_sources": "mixed"}, "has 2 losses, one for each source, but batches mix sources; set data.batch_"),
        ({}, {"train": ("a",)}, "objective.losses has 2 losses, but data.train has 1 sources; give a loss for each"),
        ({}, {"validation": ("a",)}, "objective.losses has 2 losses, but data.validation has 1 sources; give a loss"),
        ({"losses": ("ranking", "triplet")}, {"label_field": "score"}, "ranking triplet read no labels; leave it out"),
        (
            {},
            {"label_field": "score", "labels": ("yes", "no")},
            "data.labels is yes, no, but objective.losses rank",
        ),
        ({"losses": ("ranking", "batch_hard_triplet")}, {}, "ranking batch_hard_triplet, of single texts and of pairs"),
    ],
)
def test_refused(settings, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        objective = Embeddings(**{"losses": ("ranking", "cosent"), **settings})
        RunConfig(objective=objective, data=DataConfig(**{"train": ("a", "b"), **RECIPE, **changes}))


def test_negatives() -> None:
    """A source without negatives may share a run with triplets, but not have that loss."""
    objective = Embeddings(losses=("ranking", "triplet"))
    batch = batch_of() | {"tuples": batch_of()["tuples"][..., :2], "sources": np.zeros(4, np.int32)}
    vectors = np.random.default_rng(0).standard_normal((4, 6, 16)).astype(np.float32)
    assert mean(objective.metrics(vectors, batch)) == pytest.approx(float(mean(Embeddings().metrics(vectors, batch))))
    labels = TrainingLabels("", "tuple", (), texts=3, source_texts=(2, 3))
    assert objective.with_labels(labels).losses == ("ranking", "triplet")
    with pytest.raises(ValueError, match="has triplet for source 2 of data.train, but none of its records has a neg"):
        objective.with_labels(labels._replace(source_texts=(3, 2)))


def test_a_classifier_is_not_for_sparse_vectors() -> None:
    with pytest.raises(ValueError, match="objective.loss is softmax, which is for dense embeddings"):
        SparseEmbeddings(losses=("ranking", "softmax"))


def test_prompts_of_sources(tmp_path, tokenizer) -> None:  # noqa: F811
    """Each source has its own, stored ones by name; they count in its rows, and in what is not pooled."""
    settings = {"query_prompts": ("asked", "alpha beta"), "document_prompts": ("none", "beta gamma")}
    stored = SentenceConfig(prompts=(("asked", "omega theta"), ("document", "kappa: ")), include_prompt=False)
    objective = Embeddings(losses=LOSSES[:2], **settings).started_from(stored)
    assert [part.prompts for part in objective.by_source] == [("omega theta", ""), ("alpha beta", "beta gamma")]
    assert objective.prompts == ("", "kappa: ") and objective.started_from(objective.sentence) == objective
    data = data_of(tmp_path, validation_fraction=0.0)
    stores = prepare(data, tokenizer, "train", schema=table.schema_of(objective))
    (first, *_), (second, *_) = (examples_of(store)[0][0] for store in stores)
    assert first[1:3] == tuple(tokenizer.encode_batch(["omega theta"])[0].ids[1:3])
    assert second[1] == tokenizer.encode_batch(["alpha"])[0].ids[1]
    batch = {"tuples": np.array([[[1, 0]]]), "labels": np.zeros((1, 2)), "sources": np.array([0])}
    prompts = [part.prompts for part in objective.by_source]
    pooled, skipping = (prompt_counter(tokenizer, prompts, are_pooled) for are_pooled in (True, False))
    lengths = [[len(tokenizer.encode_batch([text])[0].ids) - 1 for text in pair] for pair in prompts]
    for number, (query, document) in enumerate(lengths):
        numbers = skipping(batch | {"sources": np.array([number])})
        shared = [shared_tokens(tokenizer, text) for text in prompts[number]]
        assert numbers["prompt_tokens"].tolist() == [shared[::-1]]
        assert numbers["skipped"].tolist() == [[document if number else 0, query]]  # the first source has no prompt
    assert "skipped" not in pooled(batch)
    with pytest.raises(ValueError, match="objective.document_prompts is 'absent': The model has no prompt 'absent'"):
        Embeddings(losses=LOSSES[:2], document_prompts=("absent", "none")).started_from(stored)
    with pytest.raises(
        ValueError, match="objective.query_prompts has 1 texts, but objective.losses 0 losses; give one"
    ):
        Embeddings(query_prompts=("a",))
