"""Folders of sentence-transformers with a Router: a tower for queries and one for documents."""

import json
from pathlib import Path

import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints.run import write_run
from jaxencoder.checkpoints.sentence_transformers import query_tower
from jaxencoder.inference.search import search
from tests.checkpoints.peers import SHORT, D, save_peer

ROLES = ("query", "document")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> dict[str, Path]:
    """Two families of encoders, which have other tokenizers too."""
    pytest.importorskip("sentence_transformers")
    return {name: save_peer(name, tmp_path_factory.mktemp(name)) for name in ("bert", "xlm-roberta")}


def build(queries: Path, documents: Path | None, default: str = "document", **options):
    """A Router whose queries have a Dense; without another folder the towers share their encoder."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    torch.manual_seed(0)
    first = modules.Transformer(str(queries), max_seq_length=20)
    second = first if documents is None else modules.Transformer(str(documents), max_seq_length=30)
    routes = [first, modules.Pooling(D, "cls"), modules.Dense(D, D)], [second, modules.Pooling(D, "mean")]
    router = modules.Router.for_query_document(*routes, default_route=default)
    return SentenceTransformer(modules=[router, modules.Normalize()], device="cpu", **options)


def assert_equal(model, theirs) -> None:
    for role in ROLES:
        expected = getattr(theirs, f"encode_{role}")(SHORT)
        np.testing.assert_allclose(model.embed(SHORT, prompt=role), expected, atol=1e-5)
    np.testing.assert_allclose(model.embed(SHORT), theirs.encode(SHORT), atol=1e-5)


@pytest.mark.parametrize(
    ("names", "default"),
    [(("bert", "xlm-roberta"), "document"), (("bert", None), "query")],
    ids=["own encoders", "one encoder"],
)
def test_vectors_equal_those_of_sentence_transformers(encoders, tmp_path: Path, names, default: str) -> None:
    theirs = build(*map(encoders.get, names), default=default, prompts={"query": "passage: "})
    theirs.save(str(tmp_path / "theirs"))
    model = jaxencoder.load(tmp_path / "theirs")
    assert_equal(model, theirs)
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in SHORT))
    expected = theirs.encode_query([SHORT[0]]) @ theirs.encode_document(SHORT).T
    results = search(model, str(source), SHORT[0], k=4)
    np.testing.assert_allclose([score for score, _ in results], np.sort(expected[0])[::-1], atol=1e-5)
    model.save(tmp_path / "ours", format="sentence-transformers")
    again = type(theirs)(str(tmp_path / "ours"), device="cpu")
    assert_equal(model, again)
    assert (again.prompts, again[0].default_route) == (theirs.prompts, default)
    roles = ROLES if names[1] else ROLES[:1]
    assert {x.name for x in (tmp_path / "ours").glob("*_Transformer")} == {f"{role}_0_Transformer" for role in roles}
    back = jaxencoder.load(tmp_path / "ours")
    for role in ROLES:
        np.testing.assert_array_equal(back.embed(SHORT, prompt=role), model.embed(SHORT, prompt=role))
    with pytest.raises(ValueError, match="one for documents, which transformers cannot hold; give sentence-transfo"):
        model.save(tmp_path / "other", format="transformers")
    with pytest.raises(ValueError, match="and no run of them; name its own folder in init_from"):
        write_run(model, tmp_path / "run")
    difference = "another encoder for" if names[1] else "other modules after the encoder of"
    with pytest.raises(ValueError, match=f"has {difference} queries.*, which cannot be trained"):
        query_tower(tmp_path / "theirs", model)


def test_towers_of_other_lengths_are_trained_with_one(encoders, tmp_path: Path, caplog) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    routes = ([modules.Transformer(str(encoders["bert"]), max_seq_length=x), modules.Pooling(D)] for x in (20, 30))
    router = modules.Router.for_query_document(*routes)
    SentenceTransformer(modules=[router], device="cpu").save(str(tmp_path))
    assert query_tower(tmp_path, jaxencoder.load(tmp_path))
    assert "reads 20 tokens of queries and 30 of documents, but a run as many of both" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"structure": {"query": ["query_0_Transformer"]}}, "has the routes query; query and document are needed"),
        ({"types": {"query_0_Transformer": "a.B"}}, "has a module 'a.B', which is not of sentence-transformers itself"),
        (
            {"types": {"query_0_Transformer": "sentence_transformers.models.StaticEmbedding"}},
            r"module 'StaticEmbedding' \(.*\); only Transformer is supported there",
        ),
        ({"parameters": {"default_route": "image"}}, "default_route 'image'; only 'query' or 'document' is supported"),
        (
            {"structure": {"query": ["query_0_Transformer", "query_1_Pooling"], "document": ["document_1_Pooling"]}},
            "module 'Pooling' .* only Transformer is supported there",
        ),
    ],
)
def test_other_routers(encoders, tmp_path: Path, change: dict, message: str) -> None:
    build(encoders["bert"], None).save(str(tmp_path))
    file = tmp_path / "router_config.json"
    config = json.loads(file.read_text())
    types = {**config["types"], **change.get("types", {})}
    file.write_text(json.dumps(config | change | {"types": types}))
    with pytest.raises(ValueError, match=message):
        jaxencoder.load(tmp_path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"router_config.json is missing"):
        jaxencoder.load(tmp_path)
