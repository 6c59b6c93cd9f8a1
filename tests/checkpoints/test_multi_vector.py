"""Folders of MultiVectorEncoder, PyLate and Stanford's ColBERT: vectors and scores as in sentence-transformers."""

import json
import shutil
import string
from pathlib import Path

import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints.layers import keep_layers
from jaxencoder.checkpoints.weights import open_weights, save_weights
from jaxencoder.tasks.multi_vector.token_vectors import matrix_similarities, text_matrices

from .peers import D, save_peer

PEER = pytest.importorskip("sentence_transformers")
QUERIES = ["the man", "A man is playing a Guitar, and two dogs run in the snow!", ""]
DOCUMENTS = ["A man, playing a guitar.", "", "two dogs run in the Snow. " * 9, "the man [Q] [unused0] runs"]
SIZE = 8
EXPANSION = {"strategy": "fixed", "length": 12}


def change(file: Path, **settings) -> None:
    file.write_text(json.dumps((json.loads(file.read_text()) if file.is_file() else {}) | settings))


def with_tokens(folder: Path, *tokens: str) -> None:
    """Add tokens to the tokenizer, in place of rare ones of the vocabulary."""
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    for token, (old, number) in zip(tokens, sorted(vocabulary.items(), key=lambda item: -item[1]), strict=False):
        del vocabulary[old]
        vocabulary[token] = number
    (folder / "tokenizer.json").write_text(json.dumps(content))


def write(folder: Path, family: str = "bert", **settings) -> Path:
    """A MultiVectorEncoder as sentence-transformers writes it."""
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling, MultiVectorMask
    from torch import manual_seed
    from torch.nn import Identity

    manual_seed(0)  # of the projection
    (folder / "encoder").mkdir(parents=True)
    save_peer(family, folder / "encoder")
    names = {"module_input_name": "token_embeddings"}
    modules = [
        Transformer(str(folder / "encoder"), **{"document_length": 20} | settings.get("transformer", {})),
        Dense(D, SIZE, bias=False, activation_function=Identity(), **names),
        MultiVectorMask(list(string.punctuation), **settings.get("mask", {})),
        Normalize(**names),
    ]
    modules += [HierarchicalTokenPooling(**settings["pooling"])] if "pooling" in settings else []
    options = {"prompts": settings.get("prompts"), "similarity_fn_name": settings.get("similarity")}
    model = PEER.MultiVectorEncoder(modules=modules, device="cpu", **options)
    model.save(str(folder / "model"))
    return folder / "model"


def assert_equal(ours: Path, theirs: Path) -> None:
    model, peer = jaxencoder.load(ours), PEER.MultiVectorEncoder(str(theirs), device="cpu")
    matrices = {}
    encoders = {"query": (QUERIES, peer.encode_query), "document": (DOCUMENTS, peer.encode_document)}
    for role, (texts, encode) in encoders.items():
        matrices[role], _ = text_matrices(model, model.multi_vector, texts, role)
        expected = [x.numpy() for x in encode(texts)]
        assert [x.shape for x in matrices[role]] == [x.shape for x in expected]
        for vectors, peer_vectors in zip(matrices[role], expected, strict=True):
            np.testing.assert_allclose(vectors, peer_vectors, atol=1e-5)
    scores = matrix_similarities(model.multi_vector, matrices["query"], matrices["document"])
    expected = peer.similarity(peer.encode_query(QUERIES), peer.encode_document(DOCUMENTS))
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("bert", {"transformer": {"query_expansion": EXPANSION}, "pooling": {"pool_factor": 2.0}}),
        (
            "modernbert",
            {
                "transformer": {"query_expansion": {"strategy": "min", "length": 9, "attend": True}},
                "prompts": {"query": "query: ", "document": "passage: "},
                "similarity": "meanmaxsim",
            },
        ),
        ("xlm-roberta", {"transformer": {"query_length": 6}, "mask": {"skiplist_tasks": ["query", "document"]}}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_multi_vector_encoder(family: str, settings: dict, tmp_path: Path) -> None:
    folder = write(tmp_path, family, **settings)
    assert_equal(folder, folder)
    jaxencoder.load(folder).save(tmp_path / "again", "sentence-transformers")
    assert_equal(folder, tmp_path / "again")


@pytest.mark.parametrize(
    "settings",
    [
        {"query_length": 10, "document_length": 20, "attend_to_expansion_tokens": False},
        {"query_length": 7, "do_query_expansion": False, "skiplist_words": [","]},
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_pylate(settings: dict, tmp_path: Path) -> None:
    folder = write(tmp_path)
    with_tokens(folder, "[Q] ", "[D] ")
    types = ("sentence_transformers.models.Transformer", "pylate.models.Dense.Dense")
    entries = [{"idx": i, "name": str(i), "path": ["", "1_Dense"][i], "type": x} for i, x in enumerate(types)]
    (folder / "modules.json").write_text(json.dumps(entries))
    dense = {"in_features": D, "out_features": SIZE, "bias": False, "use_residual": False}
    dense["activation_function"] = "torch.nn.modules.linear.Identity"
    (folder / "1_Dense" / "config.json").write_text(json.dumps(dense))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 63, "do_lower_case": False}))
    change(
        folder / "config_sentence_transformers.json",
        **{"model_type": "ColBERT", "similarity_fn_name": "MaxSim", "query_prefix": "[Q] ", "document_prefix": "[D] "},
        **settings,
    )
    assert_equal(folder, folder)
    jaxencoder.load(folder).save(tmp_path / "again", "sentence-transformers")
    assert_equal(folder, tmp_path / "again")


@pytest.mark.parametrize("has_metadata", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_stanford(has_metadata: bool, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_peer("bert", folder)
    with_tokens(folder, "[unused0]", "[unused1]")
    change(folder / "config.json", architectures=["HF_ColBERT"])
    rng = np.random.default_rng(0)
    tensors = {f"bert.{name}": tensor for name, tensor in open_weights(folder).items()}
    save_weights(tensors | {"linear.weight": rng.normal(size=(SIZE, D)).astype(np.float32)}, folder)
    if has_metadata:
        change(folder / "artifact.metadata", query_maxlen=10, doc_maxlen=20, mask_punctuation=False)
    else:
        change(folder / "artifact.metadata", doc_maxlen=60)
    assert_equal(folder, folder)
    jaxencoder.load(folder).save(tmp_path / "again", "sentence-transformers")
    assert_equal(folder, tmp_path / "again")


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("config_sentence_transformers.json", {"similarity_fn_name": "xtr"}, "similarity_fn_name 'xtr'; only"),
        ("config_sentence_transformers.json", {"query_prefix": "[Q] "}, "query_prefix '.Q. ', a setting that is not"),
        ("sentence_bert_config.json", {"query_expansion": {"strategy": "max"}}, "strategy 'fixed' or 'min' is needed"),
        ("sentence_bert_config.json", {"query_expansion": {"strategy": "min"}}, "length of query_expansion None"),
        ("sentence_bert_config.json", {"query_expansion": EXPANSION | {"side": "left"}}, "has side 'left'"),
        ("2_MultiVectorMask/config.json", {"keep_only_token_ids": [3]}, "keep_only_token_ids .3., not supported"),
        ("2_MultiVectorMask/config.json", {"skiplist_tasks": ["passage"]}, "only query and document are supported"),
        ("1_Dense/config.json", {"module_input_name": "sentence_embedding"}, "only 'token_embeddings' is supported"),
        ("1_Dense/config.json", {"in_features": 12}, "linear.weight has the shape"),
        ("3_Normalize/config.json", {"module_input_name": None}, "module_input_name None"),
        ("4_HierarchicalTokenPooling/config.json", {"pool_factor": 0.5}, "pool_factor 0.5; a number of at least 1"),
    ],
)
def test_refused(file: str, settings: dict, message: str, written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(written, folder)
    change(folder / file, **settings)
    with pytest.raises(ValueError, match=message):
        jaxencoder.load(folder)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("written"), pooling={"pool_factor": 2.0})


def test_a_model_of_fewer_layers_still_gives_token_vectors(written: Path, tmp_path: Path) -> None:
    assert keep_layers(written, tmp_path / "fewer", [0]) == "sentence-transformers"
    model, whole = jaxencoder.load(tmp_path / "fewer"), jaxencoder.load(written)
    assert model.multi_vector == whole.multi_vector and model.config.model.num_layers == 1
