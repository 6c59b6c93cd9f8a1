"""What a run takes of a published checkpoint's heads, and top layers that start anew."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxencoder.checkpoints.initial import initial_params, published_origin, reinitialize_top
from jaxencoder.checkpoints.transformers import open_transformers, write_model
from jaxencoder.config import RunConfig
from jaxencoder.config_io import save
from jaxencoder.families.bert import BERT
from jaxencoder.families.modernbert import MODERNBERT
from jaxencoder.families.published import Published
from jaxencoder.families.qwen3 import QWEN3
from jaxencoder.families.roberta import ROBERTA
from jaxencoder.families.tables import parameter_shapes
from jaxencoder.objectives.replaced_token import ReplacedToken
from jaxencoder.parameters import flatten
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.tasks.question_answering.objective import QuestionAnswering
from jaxencoder.tasks.token_classification.objective import TokenClassification
from tests.families import peers
from tests.model.examples import FLOAT32, SMALL, Vocabulary, assert_trees_close, mlm

FAMILIES = {"bert": BERT, "roberta": ROBERTA, "modernbert": MODERNBERT, "qwen3": QWEN3}
FIVE = dataclasses.replace(SMALL["modernbert"], num_layers=5)  # a stack of 2 x (global, local), and one layer more


def renewed(objective, layers: int) -> dict[str, np.ndarray]:
    """Of each parameter 1 where it is new, 0 where it is old."""
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    old, new = (jax.tree.map(lambda s, x=x: np.full(s.shape, x, np.float32), shapes) for x in (0, 1))
    found = reinitialize_top(old, new, layers)
    assert jax.tree.all(jax.tree.map(lambda x, s: (x.shape, x.dtype) == (s.shape, s.dtype), found, shapes))
    return {path: np.asarray(x) for path, x in flatten(found).items()}


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
def test_layers_from_the_top(layers: int) -> None:
    found = renewed(mlm(FIVE), layers)
    for name in ("mlp/up/kernel", "attention/query/kernel"):
        blocks = [found[f"encoder/layers/block_{i}/{name}"].reshape(2, -1) for i in (0, 1)]
        stack = np.stack(blocks, axis=1).reshape(4, -1)
        assert (stack == stack[:, :1]).all()  # a layer is new as a whole
        order = [*stack[:, 0], found[f"encoder/last/block_0/{name}"].flat[0]]
        assert order == [0.0] * (5 - layers) + [1.0] * layers
    rest = [x for path, x in found.items() if "/block_" not in path]
    assert len(rest) > 3 and not any(x.any() for x in rest)


def test_two_models() -> None:
    config = dataclasses.replace(SMALL["modernbert"], num_layers=4)
    objective = ReplacedToken(generator_depth=0.5).build(config, FLOAT32, Vocabulary())
    found = renewed(objective, 2)
    name = "layers/block_0/mlp/up/kernel"
    stacks = [found[f"{model}encoder/{name}"] for model in ("", "generator/")]
    assert [x.reshape(len(x), -1)[:, 0].tolist() for x in stacks] == [[0, 1], [1]]
    with pytest.raises(ValueError, match="reinitialize is 3, but generator/encoder has only 2 layers with parameters"):
        renewed(objective, 3)


def drawn(shapes: dict, seed: int) -> dict:
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32), shapes)


def published(folder: Path, family: str, *heads: str, labels: int = 3, mlm_head: bool = False) -> dict:
    """Write a folder of a family with random weights; its parameters."""
    settings = peers.MODELS[family][0] | {"num_labels": labels}
    config = FAMILIES[family].encoder_config(settings)
    known = FAMILIES[family].heads(config, settings)
    shapes = parameter_shapes(config, mlm_head, {name: known[name].config for name in heads})
    params = drawn(shapes, 0)
    write_model(folder, config, params, None, Published(FAMILIES[family], settings, {}))
    return params


def started(folder: Path, objective, capsys) -> tuple[dict, dict, str]:
    """The parameters of a new run, as it draws them and as it starts, and what is said."""
    model = open_transformers(folder, weights=False).config.model
    fresh = drawn(jax.eval_shape(objective.build(model, FLOAT32, Vocabulary()).init, jax.random.key(0)), 1)
    found = initial_params(str(folder), fresh, objective)
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, fresh)
    said = capsys.readouterr().out.removeprefix(f"Starting from {folder}: ").strip()
    return fresh, found, said


def test_a_pooler_is_the_classifiers_transform(tmp_path: Path, capsys) -> None:
    source = published(tmp_path, "bert", "pooler")
    fresh, found, said = started(tmp_path, Classification(labels=2), capsys)
    assert said == "encoder, pooler/dense as classifier/dense; new: classifier/classifier"
    assert_trees_close(found["classifier"]["dense"], source["pooler"]["dense"], 0)
    assert_trees_close(found["classifier"]["classifier"], fresh["classifier"]["classifier"], 0)
    fresh, found, said = started(tmp_path, Classification(labels=2, pooling="mean"), capsys)
    assert said == "encoder; new: classifier" and found["classifier"] is fresh["classifier"]


def test_a_pooler_beside_a_head_of_masked_words(tmp_path: Path, capsys) -> None:
    """As in bert-base-uncased, whose config.json names a class without a pooler, though the file has it."""
    source = published(tmp_path, "bert", "pooler", "nsp_head", mlm_head=True)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"architectures": ["BertForMaskedLM"]}))
    assert "pooler" not in open_transformers(tmp_path).params
    _, found, said = started(tmp_path, Classification(labels=2), capsys)
    assert said == "encoder, pooler/dense as classifier/dense; new: classifier/classifier"
    assert_trees_close(found["classifier"]["dense"], source["pooler"]["dense"], 0)


@pytest.mark.parametrize(("family", "dense"), [("bert", "pooler/dense"), ("roberta", "sequence_head/dense")])
def test_a_published_classifier(family: str, dense: str, tmp_path: Path, capsys) -> None:
    heads = ("pooler", "sequence_head") if family == "bert" else ("sequence_head",)
    source = published(tmp_path, family, *heads)
    _, found, said = started(tmp_path, Classification(labels=3), capsys)
    projection = "sequence_head/output as classifier/classifier"
    assert said == f"encoder, {dense} as classifier/dense, {projection}; new: nothing"
    assert_trees_close(found["classifier"]["classifier"], source["sequence_head"]["output"], 0)
    head, _, part = dense.partition("/")
    assert_trees_close(found["classifier"]["dense"], source[head][part], 0)
    fresh, found, said = started(tmp_path, Classification(labels=4), capsys)
    assert said == f"encoder, {dense} as classifier/dense; new: classifier/classifier"
    assert found["classifier"]["classifier"] is fresh["classifier"]["classifier"]


def test_the_classifier_of_a_decoder(tmp_path: Path, capsys) -> None:
    source = published(tmp_path, "qwen3", "sequence_head")
    _, found, said = started(tmp_path, Classification(labels=3, pooling="lasttoken", transform=False), capsys)
    assert said == "encoder, sequence_head/output as classifier/classifier; new: nothing"
    assert_trees_close(found["classifier"]["classifier"], source["sequence_head"]["output"], 0)
    for settings in ({"pooling": "lasttoken"}, {"pooling": "mean", "transform": False}):
        _, _, said = started(tmp_path, Classification(labels=3, **settings), capsys)
        assert said == "encoder; new: classifier"


@pytest.mark.parametrize("family", ["modernbert", "roberta"])
def test_a_head_that_is_another_is_new(family: str, tmp_path: Path, capsys) -> None:
    """ModernBERT's has a norm, and RoBERTa's pooler is no part of its classifier."""
    published(tmp_path, family, "sequence_head" if family == "modernbert" else "pooler")
    _, _, said = started(tmp_path, Classification(labels=3), capsys)
    assert said == "encoder; new: classifier"


def test_heads_of_tokens(tmp_path: Path, capsys) -> None:
    for family, name, objective in (
        ("bert", "token_head", TokenClassification(tags=("O", "B-x", "I-x"))),
        ("bert", "span_head", QuestionAnswering()),
    ):
        source = published(tmp_path / name, family, name)
        _, found, said = started(tmp_path / name, objective, capsys)
        assert said == f"encoder, {name}; new: nothing"
        assert_trees_close(found[name], source[name], 0)
    _, _, said = started(tmp_path / "token_head", TokenClassification(tags=("O", "B-x")), capsys)
    assert said == "encoder; new: token_head"
    published(tmp_path / "modern", "modernbert", "token_head")
    _, _, said = started(tmp_path / "modern", TokenClassification(tags=("O", "B-x", "I-x")), capsys)
    assert said == "encoder; new: token_head"


def test_where_a_run_comes_from(tmp_path: Path) -> None:
    published(tmp_path / "roberta", "roberta")
    first = RunConfig(init_from=str(tmp_path / "roberta"))
    (tmp_path / "run").mkdir()
    save(first, tmp_path / "run")
    second = RunConfig(init_from=str(tmp_path / "run"))
    for config in (first, second):
        assert published_origin(config).family is ROBERTA
    for missing in ("", str(tmp_path / "gone")):
        assert published_origin(RunConfig(init_from=missing)) is None
    save(RunConfig(init_from=str(tmp_path / "run")), tmp_path / "run")  # in a circle
    assert published_origin(second) is None
