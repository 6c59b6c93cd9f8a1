"""Separate encoders for queries and documents: trained as in sentence-transformers, used by role, and exported."""

from pathlib import Path

import jax
import numpy as np
import pytest

import jaxencoder
from jaxencoder.adapters.lora import LoraConfig
from jaxencoder.checkpoints.adapter import trained_adapter
from jaxencoder.checkpoints.initial import initial_params, open_initial_model
from jaxencoder.checkpoints.run import as_checkpoint
from jaxencoder.config import DataConfig, Embeddings, RunConfig
from jaxencoder.evaluation.evaluate import evaluate
from jaxencoder.inference.predict import predict
from jaxencoder.model.sentence import QUERY_TOWER
from jaxencoder.parameters import flatten
from tests.checkpoints.peers import SHORT, save_peer
from tests.model.examples import BERT, FLOAT32, Vocabulary, randomized_params
from tests.objectives.comparisons import KEY, from_transformers, loss_and_gradients
from tests.tasks.conftest import train_tiny, write_records
from tests.tasks.embeddings.test_objective import batch_of, build, their_ranking, vectors_of

DATA = DataConfig(text_field="anchor", pair_field="positive")
TABLE = "encoder/embeddings/token_embedding"


def test_gradients_equal_those_of_two_encoders() -> None:
    torch = pytest.importorskip("torch")
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    documents, params = from_transformers("BertForMaskedLM", build(BERT))
    queries, _ = from_transformers("BertForMaskedLM", build(BERT))
    with torch.no_grad():
        queries.bert.embeddings.word_embeddings.weight.mul_(0.5)
    halved = jax.tree.map_with_path(lambda path, x: x / 2 if "token_embedding" in str(path) else x, params)
    objective = build(BERT, towers="separate", parts=2)
    loss, _, gradients = loss_and_gradients(objective, params | {"query_tower": halved}, batch_of())
    columns = vectors_of(documents, batch_of(), "mean")
    columns[0] = vectors_of(queries, batch_of(), "mean")[0]
    expected = their_ranking(losses.MultipleNegativesRankingLoss(torch.nn.Identity()), columns)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for prefix, theirs in (("", documents), ("query_tower/", queries)):
        np.testing.assert_allclose(
            gradients[prefix + TABLE], theirs.bert.embeddings.word_embeddings.weight.grad, atol=1e-5
        )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run(tmp_path: Path) -> None:
    """From one encoder to two, which the run, its folder of sentence-transformers, and a later run have."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    save_peer("bert", tmp_path / "bert")
    records = [{"anchor": f"{a} {b}", "positive": b} for a in ("man", "dogs", "Snow") for b in ("run", "guitar", "the")]
    source = write_records(tmp_path / "pairs.jsonl", records)
    data = DataConfig(train=(source,), validation=(source,), text_field="anchor", pair_field="positive")
    objective = Embeddings(towers="separate", projection=6, query_prompt="query: ")
    run = train_tiny(tmp_path / "run", objective, data, 2, init_from=str(tmp_path / "bert")).folder
    model = jaxencoder.load(run)
    params = model.params | {QUERY_TOWER: model.queries.params}
    assert as_checkpoint(model.config, model.tokenizer, params, 2).queries is not None
    assert QUERY_TOWER in params  # which may be those of a run that goes on
    queries, documents = (model.embed(SHORT, prompt=role) for role in ("query", "document"))
    assert queries.shape == (4, 6) and np.abs(queries - model.embed(SHORT, prompt="query: ")).max() > 1e-3
    assert evaluate(run, source, output=tmp_path / "results.json")["examples"] == len(records)
    (record,) = predict(run, [{"anchor": SHORT[0], "positive": SHORT[2]}])
    a, b = queries[0] / np.linalg.norm(queries[0]), documents[2] / np.linalg.norm(documents[2])
    assert record["similarity"] == pytest.approx(a @ b, abs=1e-5)
    model.save(tmp_path / "saved", format="sentence-transformers")
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(theirs.encode_query(SHORT), queries, atol=1e-5)
    np.testing.assert_allclose(theirs.encode_document(SHORT), documents, atol=1e-5)
    with pytest.raises(ValueError, match="one for documents, and an adapter is of one encoder; write it with --to"):
        trained_adapter(run)
    for start in (run, tmp_path / "saved"):
        sentence = open_initial_model(str(start)).sentence
        later = Embeddings().started_from(sentence)
        assert later.towers == "separate" and later.prompts == ("query: ", "")
        fresh = randomized_params(later.build(model.config.model, FLOAT32, Vocabulary()).init)
        params = flatten(initial_params(str(start), fresh, later))
        towers = {"": model, "query_tower/": model.queries}
        expected = {
            f"{prefix}{path}": x for prefix, tower in towers.items() for path, x in flatten(tower.params).items()
        }
        assert params.keys() == expected.keys()
        for path, x in params.items():
            np.testing.assert_array_equal(x, expected[path], err_msg=path)


def test_both_towers_start_equal() -> None:
    params = jax.jit(build(BERT, towers="separate", projection=6).init)(KEY)
    tower = params.pop("query_tower")
    jax.tree.map(np.testing.assert_array_equal, params, tower)


def test_adapters_are_of_one_encoder() -> None:
    with pytest.raises(ValueError, match="adapter.rank is 4, but objective.towers is separate, which trains two enco"):
        RunConfig(objective=Embeddings(towers="separate"), data=DATA, adapter=LoraConfig(rank=4))
