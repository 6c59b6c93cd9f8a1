"""Looking into recipes, runs and folders without their weights: shapes, bytes on a mesh, backends, and mistakes."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import pytest

from jaxencoder.api import Model
from jaxencoder.checkpoints import sentence_transformers
from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.transformers import open_transformers, write_model
from jaxencoder.checkpoints.weights import Weights, has_weights
from jaxencoder.config import DataConfig, RunConfig
from jaxencoder.config_io import save
from jaxencoder.describe.inspect import Inspection, format_inspection, inspect
from jaxencoder.families.published import Published, family_of
from jaxencoder.families.tables import parameter_shapes
from jaxencoder.files import write_json
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.flops import forward_flops, training_flops
from jaxencoder.model.sentence import Dense, SentenceConfig
from jaxencoder.parameters import path_of
from jaxencoder.tasks.classification.objective import Classification
from tests.model.examples import BERT, MODERNBERT

WINDOWS = {"windows": (0, 8), "num_layers": 5, "positions": "rotary", "norm_placement": "pre"}


def shapes_of(params: dict) -> dict[str, tuple[int, ...]]:
    return {path_of(path): x.shape for path, x in jax.tree.leaves_with_path(params)}


def found_shapes(actual: Inspection) -> dict[str, tuple[int, ...]]:
    return {parameter.path: parameter.shape for parameter in actual.parameters}


def recipe(folder: Path, body: str) -> str:
    path = folder / "tiny.py"
    path.write_text(f"from jaxencoder.config import *\n\ndef get_config():\n    return RunConfig({body})\n")
    return str(path)


def run_folder(folder: Path, model: Model) -> Path:
    """A run as far as `inspect` reads it: no checkpoints."""
    folder.mkdir()
    model.tokenizer.save(folder / "tokenizer")
    save(model.config, folder)
    return folder


def test_a_run(make_model, tokenizer, tmp_path: Path) -> None:
    model = make_model(**WINDOWS)
    actual = inspect(run_folder(tmp_path / "run", model))
    assert actual.kind == "run" and actual.heads == {"mlm_head": {}} and not actual.notes
    assert found_shapes(actual) == shapes_of(model.params)
    assert actual.tokenizer["vocab_size"] == tokenizer.vocab_size and actual.tokenizer["special"]["mask"] == "[MASK]"
    assert {"windows", "positions", "num_layers"} <= set(actual.changed) and "token_types" not in actual.changed
    sizes = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in model.params.items()}
    assert actual.parts["embeddings"] + actual.parts["layers"] == sizes["encoder"]
    assert actual.parts["mlm_head"] == sizes["mlm_head"]
    number = sum(sizes.values())
    assert actual.memory["parameters"].total == actual.memory["gradients"].total == 4 * number
    # AdamW's two moments, and a few counters.
    assert 0 <= actual.memory["optimizer"].total - 8 * number < 100
    assert actual.parameters[0].path.startswith("encoder/") and actual.mesh == dict.fromkeys(actual.mesh, 1)


def test_bottleneck_adapters(make_model, tmp_path: Path) -> None:
    """Counted apart, without gradients or state for the rest, and with FLOPs of their own."""
    plain, body = make_model(), 'init_from="{}", model=EncoderConfig(bottleneck=4, bottleneck_sublayers=("mlp",))'
    body += ", data=DataConfig(row_length=64)"
    base = run_folder(tmp_path / "run", plain)
    before, actual = inspect(base), inspect(recipe(tmp_path, body.format(base)))
    assert actual.parts["bottleneck"] == 2 * (2 * 32 * 4 + 4 + 32)
    assert {name: n for name, n in actual.parts.items() if name != "bottleneck"} == before.parts
    learns = actual.parts["bottleneck"] + actual.parts["mlm_head"]
    assert actual.memory["gradients"].total == 4 * learns
    assert 0 <= actual.memory["optimizer"].total - 8 * learns < 100
    assert actual.flops["encoder"] - forward_flops(plain.config.model, actual.length) == 2 * 2 * 2 * 32 * 4
    assert actual.family is None


def test_flops_are_those_of_training(make_model, tmp_path: Path) -> None:
    model = make_model(**WINDOWS)
    actual = inspect(run_folder(tmp_path / "run", model), length=48)
    per_token = actual.flops["encoder"] + 0.15 * actual.flops["mlm_head"]
    assert 3 * per_token == pytest.approx(training_flops(model.config.model, 48, 0.15))


def test_a_classifier(make_model, tmp_path: Path) -> None:
    model = make_model(Classification(labels=3, pooling="learned"))
    actual = inspect(run_folder(tmp_path / "run", model))
    assert found_shapes(actual) == shapes_of(model.params)
    assert actual.heads["classifier"]["labels"] == 3 and "mlm_head" not in actual.flops


def test_a_mixture_of_experts(make_model, tmp_path: Path) -> None:
    config = {"num_layers": 4, "num_experts": 4, "windows": (0, 0), "expert_layers": (1,)}
    actual = inspect(run_folder(tmp_path / "run", make_model(**config)))
    D, F = (actual.settings[name] for name in ("hidden_size", "mlp_size"))
    assert sum(actual.parts.values()) - actual.active == 2 * (4 - 2) * 2 * D * F
    assert "used for each token" in format_inspection(actual)
    plain = inspect(run_folder(tmp_path / "plain", make_model(num_layers=4)))
    more = actual.flops["encoder"] - plain.flops["encoder"]
    assert more == 2 * 2 * (2 * D * F + 4 * D) and "used for" not in format_inspection(plain)


def test_a_recipe(tmp_path: Path) -> None:
    body = 'model=EncoderConfig(num_layers=2, hidden_size=32, mlp_size=48, num_heads=4), name="x"'
    path = recipe(tmp_path, f"{body}, training=TrainingConfig(ema_decay=0.9), mesh=MeshConfig(fsdp=2)")
    actual = inspect(path, {"tensor": 2}, overrides=["--model.mlp-size", "64", "--data.row-length", "16"])
    assert (actual.kind, actual.family, actual.length) == ("recipe", "bert", 16)
    assert actual.settings["mlp_size"] == 64
    assert found_shapes(actual)["encoder/embeddings/token_embedding"] == (16384, 32)
    assert len(actual.notes) == 1 and "not trained yet" in actual.notes[0]
    assert actual.mesh == {"data": 1, "fsdp": 2, "tensor": 2, "context": 1}
    assert actual.memory["average"] == actual.memory["parameters"]


def test_what_stays_needs_neither_gradients_nor_state() -> None:
    actual = inspect("bert_base", overrides=["--adapter.rank", "8"])
    learn = sum(x.number for x in actual.parameters if not x.path.startswith("encoder/"))
    assert 12 * 2 * 2 * 768 * 8 < learn < 0.02 * sum(x.number for x in actual.parameters)
    assert actual.memory["gradients"].total == 4 * learn
    assert 0 <= actual.memory["optimizer"].total - 8 * learn < 100
    assert "lora" not in actual.heads


def test_a_recipe_that_starts_from_a_run(make_model, tmp_path: Path) -> None:
    source = run_folder(tmp_path / "run", make_model())
    path = recipe(tmp_path, 'objective=Classification(), data=DataConfig(label_field="label", row_length=16)')
    actual = inspect(path, overrides=["--init-from", str(source), "--model.dropout", "0.3"])
    assert actual.settings["hidden_size"] == 32 and actual.settings["dropout"] == 0.3
    assert found_shapes(actual)["classifier/classifier/kernel"] == (32, 2)
    assert len(actual.notes) == 1 and "number of classes" in actual.notes[0]
    longest = actual.settings["max_length"]
    words = ["--init-from", str(source), "--data.row-length", str(longest + 1)]
    actual = inspect(path, overrides=words)
    expected = f"Rows of at most {longest} tokens, not {longest + 1}: {source} has no more positions"
    assert actual.length == longest and actual.notes[0] == expected


def test_rows_longer_than_the_positions(make_model, tmp_path: Path) -> None:
    """Of embeddings only the texts are shortened."""
    source = run_folder(tmp_path / "run", make_model())
    path = recipe(tmp_path, 'objective=Embeddings(), data=DataConfig(pair_field="positive", row_length=96)')
    words = ["--init-from", str(source)]
    actual = inspect(path, overrides=words)
    longest = actual.settings["max_length"]
    expected = f"Texts of at most {longest} tokens, not 96: {source} has no more positions"
    assert actual.length == 96 and actual.notes[0] == expected
    limited = inspect(path, overrides=[*words, "--data.text-length", "9"])
    assert limited.length == 96 and not any("Texts" in note for note in limited.notes)


def test_bytes_on_each_device(make_model, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", make_model(num_heads=4, vocab_size=128))
    actual = inspect(folder, {"data": 3, "fsdp": 2, "tensor": 4})
    by_path = {parameter.path: parameter for parameter in actual.parameters}

    def parts(path: str) -> float:
        return by_path[path].bytes.total / by_path[path].bytes.device

    assert parts("encoder/embeddings/token_embedding") == 8  # data are copies
    assert by_path["encoder/embeddings/token_embedding"].spec == ("tensor", "fsdp")
    assert parts("encoder/layers/block_0/attention/query/kernel") == 8
    assert parts("encoder/layers/block_0/attention_norm/scale") == 1
    assert all(math.prod(p.shape) == p.number == p.bytes.total // 4 for p in actual.parameters)
    assert actual.memory["parameters"].device == sum(p.bytes.device for p in actual.parameters)
    assert actual.memory["optimizer"].device == pytest.approx(2 * actual.memory["parameters"].device, abs=100)


def test_what_an_axis_does_not_divide_is_whole(make_model, tmp_path: Path) -> None:
    actual = inspect(run_folder(tmp_path / "run", make_model(num_heads=4)), {"tensor": 3})
    query = next(p for p in actual.parameters if p.path.endswith("query/kernel"))
    assert query.spec == (None, "fsdp", None, None) and query.bytes.total == query.bytes.device


@pytest.mark.parametrize(("length", "whole", "local"), [(64, "dense", "dense"), (4096, "chunked", "banded")])
def test_backends(length: int, whole: str, local: str, make_model, tmp_path: Path) -> None:
    actual = inspect(run_folder(tmp_path / "run", make_model(**WINDOWS)), length=length)
    assert [(kind.window, kind.layers, kind.backend) for kind in actual.attention] == [(0, 3, whole), (8, 2, local)]


@pytest.fixture
def no_reading(monkeypatch) -> None:
    monkeypatch.setattr(Weights, "__getitem__", lambda self, name: pytest.fail(f"read {name}"))


def published_folder(folder: Path, config: EncoderConfig, *heads: str, settings=None) -> Path:
    family = family_of(config)
    head_configs = {name: head.config for name, head in family.heads(config, {}).items() if name in heads}
    shapes = parameter_shapes(config, "mlm_head" in heads, head_configs)
    params = jax.tree.map(lambda x: jax.numpy.zeros(x.shape), shapes)
    write_model(folder, config, params, published=Published(family, settings or {}, {}))
    return folder


ELECTRA = dataclasses.replace(BERT, embedding_size=16)
PUBLISHED = [
    (BERT, ("mlm_head", "pooler", "nsp_head")),
    (BERT, ("pooler", "sequence_head")),
    (BERT, ("pooler",)),
    (MODERNBERT, ("mlm_head",)),
    (MODERNBERT, ("token_head",)),
    (ELECTRA, ("rtd_head",)),
    (dataclasses.replace(BERT, num_layer_groups=1, embedding_size=16), ("mlm_head",)),
]


@pytest.mark.parametrize(("config", "heads"), PUBLISHED)
def test_a_published_folder_as_it_is_loaded(config: EncoderConfig, heads: tuple[str, ...], tmp_path: Path) -> None:
    folder = published_folder(tmp_path, config, *heads)
    loaded = open_transformers(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Weights, "__getitem__", lambda self, name: pytest.fail(f"read {name}"))
        actual = open_transformers(folder, weights=False)
    assert actual.config.model == loaded.config.model and has_weights(folder)
    assert actual.published.heads == loaded.published.heads and set(actual.published.heads) == set(heads) - {"mlm_head"}
    assert shapes_of(actual.params) == shapes_of(loaded.params)
    # The class that config.json names tells the same without any weights.
    (folder / "model.safetensors").unlink()
    alone = open_transformers(folder, weights=False)
    assert not has_weights(folder) and shapes_of(alone.params) == shapes_of(loaded.params)


def test_a_published_folder(tmp_path: Path, no_reading) -> None:
    actual = inspect(published_folder(tmp_path, BERT, "mlm_head"))
    assert (actual.kind, actual.family, actual.length) == ("transformers", "bert", BERT.max_length)
    assert actual.tokenizer == {} and actual.sentence == {} and not actual.notes
    (tmp_path / "model.safetensors").unlink()
    assert "the folder has no weights" in inspect(tmp_path).notes[0]
    settings = json.loads((tmp_path / "config.json").read_text())
    write_json(tmp_path / "config.json", settings | {"architectures": None})
    assert inspect(tmp_path).heads == {}


def test_a_sentence_folder(tokenizer, tmp_path: Path, no_reading) -> None:
    D = BERT.hidden_size
    settings = SentenceConfig(pooling=("mean", "max"), modules=(Dense(2 * D, 10),), normalize=True)
    arrays = {"0": {name: jax.numpy.zeros(shape) for name, shape in settings.modules[0].shapes().items()}}
    config = RunConfig(model=BERT, data=DataConfig(row_length=20))
    sentence_transformers.write(tmp_path, Checkpoint(config, {"sentence": arrays}, tokenizer, sentence=settings))
    published_folder(tmp_path, dataclasses.replace(BERT, vocab_size=tokenizer.vocab_size), "pooler")
    tokenizer.save(tmp_path)
    actual = inspect(tmp_path)
    assert (actual.kind, actual.family, actual.length) == ("sentence-transformers", "bert", 20)
    assert actual.sentence["size"] == 10 and actual.sentence["modules"][0]["kind"] == "Dense"
    assert found_shapes(actual)["sentence/0/kernel"] == (2 * D, 10)
    assert actual.parts["sentence"] == 2 * D * 10 + 10
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    assert found_shapes(inspect(tmp_path)) == found_shapes(actual)


def test_a_name_of_the_hub_needs_no_weights(tmp_path: Path, monkeypatch) -> None:
    import huggingface_hub

    published_folder(tmp_path, BERT, "mlm_head")
    (tmp_path / "model.safetensors").unlink()
    asked = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **given: asked.update(given) or tmp_path)
    assert inspect("someone/model").family == "bert"
    assert not any("safetensors" in pattern or "bin" in pattern for pattern in asked["allow_patterns"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 65}, "length is 65; .* takes rows of 1 to 64 tokens"),
        ({"length": 0}, "length is 0"),
        ({"mesh": {"fsdp": 0}}, "must be positive"),
        ({"overrides": ["--model.num-layers", "3"]}, "--model.num-layers is not an option of inspect; only a recipe"),
    ],
)
def test_mistakes(arguments: dict, message: str, make_model, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", make_model())
    with pytest.raises(ValueError, match=message):
        inspect(folder, **arguments)


def test_nothing_of_that_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neither a folder nor a recipe \(.*bert_small"):
        inspect("bert_smal")
    with pytest.raises(ValueError, match="no config.json"):
        inspect(tmp_path)


def test_a_run_of_no_family(make_model, tmp_path: Path) -> None:
    model = make_model(norm_placement="pre")
    assert inspect(run_folder(tmp_path / "run", model)).family is None
