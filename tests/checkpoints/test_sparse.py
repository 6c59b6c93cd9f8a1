"""Folders of sentence-transformers' SparseEncoder: their vectors here, and ours there."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints.initial import open_initial_model
from jaxencoder.model.sentence import SentenceConfig
from jaxencoder.model.sparse import SparseConfig
from jaxencoder.tasks.sparse.objective import SparseEmbeddings

from .peers import SHORT, save_peer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def masked_lm(tmp_path_factory) -> Path:
    pytest.importorskip("sentence_transformers")
    return save_peer("bert", tmp_path_factory.mktemp("bert"), "AutoModelForMaskedLM")


@pytest.fixture(scope="module")
def folders(masked_lm, tmp_path_factory) -> dict[str, Path]:
    """Folders of a model that is a SpladePooling alone, and of one whose queries have a table."""
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder import modules
    from transformers import AutoTokenizer

    def transformer():
        return modules.Transformer(str(masked_lm), transformer_task="fill-mask", max_seq_length=40)

    tokenizer = AutoTokenizer.from_pretrained(str(masked_lm))
    weight = torch.linspace(-0.5, 2, len(tokenizer))
    queries = modules.SparseStaticEmbedding(tokenizer=tokenizer, weight=weight, frozen=True)
    documents = [transformer(), modules.SpladePooling("sum", "log1p_relu")]
    router = modules.Router.for_query_document([queries], documents)
    plain = [transformer(), modules.SpladePooling("max")]
    models = {
        "plain": SparseEncoder(modules=plain, prompts={"query": "the man "}, similarity_fn_name="cosine", device="cpu"),
        "table": SparseEncoder(modules=[router], max_active_dims=7, device="cpu"),
    }
    result = {name: tmp_path_factory.mktemp(name) for name in models}
    for name, model in models.items():
        model.save(str(result[name]))
    return result


@pytest.mark.parametrize(
    ("name", "sparse"),
    [
        ("plain", SparseConfig()),
        ("table", SparseConfig("sum", "log1p_log1p", "table", max_active=7)),
    ],
)
def test_both_ways(name: str, sparse: SparseConfig, folders, tmp_path) -> None:
    from sentence_transformers import SparseEncoder

    model = jaxencoder.load(folders[name])
    assert model.sentence.sparse == sparse and model.max_length == 40
    model.save(tmp_path / "ours", format="sentence-transformers")
    again = jaxencoder.load(tmp_path / "ours")
    assert again.sentence == model.sentence and again.max_length == 40
    theirs = [SparseEncoder(str(folder), device="cpu") for folder in (folders[name], tmp_path / "ours")]
    for role in ("query", "document"):
        expected, read = (getattr(x, f"encode_{role}")(SHORT).to_dense().numpy() for x in theirs)
        vectors = model.embed_sparse(SHORT, role)
        np.testing.assert_allclose(vectors.toarray(), expected, atol=1e-5)
        np.testing.assert_allclose(read, expected, atol=1e-5)
        np.testing.assert_array_equal(again.embed_sparse(SHORT, role).toarray(), vectors.toarray())
    few = theirs[0].encode_document(SHORT, max_active_dims=3).to_dense().numpy()
    np.testing.assert_allclose(model.embed_sparse(SHORT, max_active_dims=3).toarray(), few, atol=1e-5)
    decoded = theirs[0].decode(theirs[0].encode_document(SHORT[3]), top_k=2)
    ours = model.token_weights(model.embed_sparse(SHORT[3:]), 2)[0]
    assert [x["token"] for x in ours] == [token for token, _ in decoded]
    assert open_initial_model(str(folders[name])).sentence == model.sentence


def test_a_masked_language_model_becomes_sparse(masked_lm, tmp_path) -> None:
    from sentence_transformers import SparseEncoder

    model = jaxencoder.load(masked_lm)
    with pytest.raises(ValueError, match="this model gives no sparse vectors"):
        model.embed_sparse(SHORT)
    sparse = dataclasses.replace(model, sentence=SentenceConfig(similarity="dot", sparse=SparseConfig()))
    sparse.save(tmp_path / "ours", format="sentence-transformers")
    theirs = SparseEncoder(str(tmp_path / "ours"), device="cpu")
    np.testing.assert_allclose(sparse.embed(SHORT).toarray(), theirs.encode(SHORT).to_dense().numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="normalize is True, but this model gives sparse vectors"):
        sparse.embed(SHORT, normalize=True)
    bare = dataclasses.replace(sparse, params={"encoder": model.params["encoder"]})
    with pytest.raises(ValueError, match="no head of a masked language model, which sparse vectors need"):
        bare.save(tmp_path / "bare", format="sentence-transformers")


CHANGES = {
    "modules.json": (
        lambda x: [x[0], {**x[1], "type": "sentence_transformers.sparse_encoder.modules.SparseAutoEncoder"}],
        r"a module 'SparseAutoEncoder' \(.*\); only a Transformer with a SpladePooling is supported in a SparseEncoder",
    ),
    "1_SpladePooling/config.json": (
        lambda x: x | {"activation_function": "gelu"},
        "config.json has activation_function 'gelu'; only 'relu' or 'log1p_relu' is supported",
    ),
    "sentence_bert_config.json": (
        lambda x: x | {"transformer_task": "feature-extraction"},
        "transformer_task 'feature-extraction'; only 'fill-mask' is supported",
    ),
    "config_sentence_transformers.json": (
        lambda x: x | {"max_active_dims": 0},
        "max_active_dims 0; an integer of at least 1 is needed",
    ),
}
ROUTES = {
    "router_config.json": (
        lambda x: x | {"structure": {"query": ["document_0_Transformer"], "document": x["structure"]["document"]}},
        "router_config.json has Transformer for queries; only a SparseStaticEmbedding is supported there",
    ),
    "query_0_SparseStaticEmbedding/config.json": (
        lambda x: x | {"path": "idf.json"},
        "config.json has path 'idf.json', a setting that is not supported",
    ),
}


@pytest.mark.parametrize(
    ("name", "file", "change", "message"),
    [
        (name, file, *values)
        for name, changes in (("plain", CHANGES), ("table", ROUTES))
        for file, values in changes.items()
    ],
    ids=[*CHANGES, *ROUTES],
)
def test_refused(name: str, file: str, change, message: str, folders, tmp_path) -> None:
    shutil.copytree(folders[name], tmp_path / "copy")
    path = tmp_path / "copy" / file
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=message):
        jaxencoder.load(tmp_path / "copy")


def test_max_length_of_queries_by_a_table(folders) -> None:
    model = jaxencoder.load(folders["table"])
    short = model.embed_sparse(SHORT, "query", max_length=3)
    assert (np.diff(short.indptr) <= 3).all() and short.nnz < model.embed_sparse(SHORT, "query").nnz


def test_training_names_what_it_does_not_keep(caplog) -> None:
    sparse = SparseConfig(queries="table", max_active=7)
    objective = SparseEmbeddings().started_from(SentenceConfig(sparse=sparse))
    assert objective.queries == "table" and "init_from has its own max_active, which the run does not" in caplog.text
