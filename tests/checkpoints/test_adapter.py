"""An adapter alone: the same model on its base as its run, small, whole or not there, and refused on any other."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxencoder
from jaxencoder.adapters.lora import LoraConfig
from jaxencoder.api import Model
from jaxencoder.checkpoints import adapter, peft
from jaxencoder.checkpoints.adapter import fingerprint
from jaxencoder.checkpoints.initial import open_initial_model
from jaxencoder.checkpoints.orbax import CheckpointManager
from jaxencoder.checkpoints.weights import read_tensors
from jaxencoder.cli.main import main
from jaxencoder.config import Classification, MaskedLM, RunConfig
from jaxencoder.config_io import save
from jaxencoder.describe.inspect import inspect
from jaxencoder.parameters import flatten, map_with_paths
from tests.families import peers
from tests.model.examples import assert_trees_close

TEXTS = ["the cat sat on a mat", "seven old men"]
LORA = LoraConfig(rank=2, targets=(r"attention/(query|output)/kernel$",), dora=True)


def keep(folder: Path, model: Model, config: RunConfig, **parts: dict) -> Path:
    """A run of one checkpoint."""
    model.tokenizer.save(folder / "tokenizer")
    checkpoints = CheckpointManager(folder / "checkpoints")
    checkpoints.save(3, parts, wait=True)
    checkpoints.close()
    save(config, folder)
    return folder


def tuned(base: Path, start: Model, seed: int, **settings) -> tuple[RunConfig, dict]:
    """What a run on the base could have learned: the configuration, and the parameters."""
    objective = settings.pop("objective", Classification(labels=3, dropout=0.0))
    data = dataclasses.replace(start.config.data, label_field="label" if isinstance(objective, Classification) else "")
    config = dataclasses.replace(start.config, init_from=str(base), objective=objective, data=data, **settings)
    shapes = jax.eval_shape(config.build(start.tokenizer).init, jax.random.key(0))
    random = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: random.normal(0, 0.3, x.shape).astype(np.float32), shapes)

    frozen = {path: x.copy() for path, x in flatten(start.params).items() if path.startswith("encoder/")}
    return config, map_with_paths(lambda path, x: frozen.get(path, x), params)


@pytest.fixture(scope="module")
def folders(model: Model, tmp_path_factory) -> dict[str, Path]:
    """A base as a run and as a folder of transformers, runs that have learned on it, and their adapters."""
    home = tmp_path_factory.mktemp("adapters")
    folders = {"base": keep(home / "base", model, model.config, params=model.params)}
    wide = dataclasses.replace(model.config.model, bottleneck=4)
    average = dataclasses.replace(model.config.training, ema_decay=0.5)
    bitfit = dataclasses.replace(model.config.optimizer, trainable=("/bias$", "^classifier/"))
    runs = {
        "lora": tuned(folders["base"], model, 1, adapter=LORA, training=average),
        "other": tuned(folders["base"], model, 2, adapter=LORA),
        "bottleneck": tuned(folders["base"], model, 3, model=wide),
        "bitfit": tuned(folders["base"], model, 4, optimizer=bitfit),
    }
    for path, x in flatten(runs["bitfit"][1]["encoder"]).items():
        if path.endswith("bias"):
            x += 0.1
    for name, (config, params) in runs.items():
        parts = {"params": params}
        if config.training.ema_decay:  # what stays is there up to rounding
            parts["ema"] = jax.tree.map_with_path(lambda p, x: x * np.float32(1.0000002 + ("lora" in str(p))), params)
        folders[name] = keep(home / name, model, config, **parts)
        assert main(["convert", str(folders[name]), str(home / f"{name}-adapter"), "--to", "adapter"]) == 0
        folders[f"{name}-adapter"] = home / f"{name}-adapter"
    return folders


@pytest.mark.parametrize("name", ["lora", "other", "bottleneck", "bitfit"])
def test_gives_what_the_run_gives(folders: dict[str, Path], name: str) -> None:
    run, base = jaxencoder.load(folders[name]), jaxencoder.load(folders["base"])
    for model in (jaxencoder.load(folders[f"{name}-adapter"]), base.with_adapter(folders[f"{name}-adapter"])):
        assert_trees_close(model.params, run.params, 1e-6)
        assert model.config == run.config and model.max_length == run.max_length and model.published is None
        np.testing.assert_allclose(model.embed(TEXTS), run.embed(TEXTS), atol=1e-5)
    assert np.abs(base.embed(TEXTS) - run.embed(TEXTS)).max() > 0.01


def test_holds_what_learned_and_no_more(folders: dict[str, Path]) -> None:
    for name, pattern in {"lora": "lora/", "bottleneck": "_bottleneck/", "bitfit": "bias"}.items():
        arrays, metadata = read_tensors(folders[f"{name}-adapter"] / "adapter.safetensors")
        assert all(path.startswith("classifier/") or pattern in path for path in arrays), name
        assert len(metadata["base"]) == 64
        names = {path.name for path in folders[f"{name}-adapter"].iterdir()}
        assert names == {"adapter.safetensors", "config.json"}


def test_several_share_one_base(folders: dict[str, Path]) -> None:
    base = jaxencoder.load(folders["base"])
    before = base.embed(TEXTS)
    first, second = (base.with_adapter(folders[f"{name}-adapter"]) for name in ("lora", "other"))
    assert np.abs(first.embed(TEXTS) - second.embed(TEXTS)).max() > 0.01
    shared = flatten(base.device_params["encoder"])
    adapted = {path for path, x in flatten(first.device_params["encoder"]).items() if x is not shared[path]}
    assert adapted == {f"layers/block_0/attention/{name}/kernel" for name in ("query", "output")}
    np.testing.assert_array_equal(base.embed(TEXTS), before)
    with pytest.raises(ValueError, match="was trained on other weights than this model's; add it to .*base"):
        first.with_adapter(folders["other-adapter"])


def test_casts_as_the_base_does(folders: dict[str, Path]) -> None:
    base = jaxencoder.load(folders["base"], dtype="bfloat16")
    model = base.with_adapter(folders["lora-adapter"])
    for path, x in flatten(model.device_params["encoder"]).items():
        assert x.dtype == ("bfloat16" if path.endswith("kernel") else "float32"), path


def test_another_base_is_refused(folders: dict[str, Path], make_model, tmp_path: Path) -> None:
    wrong = jaxencoder.load(folders["base"])
    params = jax.tree.map(np.array, wrong.params)
    params["encoder"]["embeddings"]["token_embedding"][5, 3] += 1e-3
    wrong = dataclasses.replace(wrong, params=params)
    for name in ("lora", "bottleneck", "bitfit"):
        with pytest.raises(ValueError, match="was trained on other weights than this model's"):
            wrong.with_adapter(folders[f"{name}-adapter"])
    with pytest.raises(ValueError, match="is an adapter of a model whose hidden_size is 32, and this model's is 16"):
        make_model(hidden_size=16).with_adapter(folders["lora-adapter"])
    with pytest.raises(ValueError, match="base holds no adapter: neither adapter.safetensors nor adapter_config.json"):
        wrong.with_adapter(folders["base"])


def test_fingerprint_is_of_names_and_numbers() -> None:
    tree = {"a": {"kernel": np.array([[1.0, -0.0], [1e-42, 3.0]], np.float32)}, "b": np.ones(2, np.float32)}
    same = {"b": tree["b"], "a": {"kernel": jax.numpy.asarray(tree["a"]["kernel"]) + 0}}  # 0, and 0 on most devices
    assert fingerprint(tree) == fingerprint(same)
    assert fingerprint(tree) != fingerprint({"a": tree["a"], "c": tree["b"]})
    assert fingerprint(tree) != fingerprint(tree | {"b": np.ones((2, 1), np.float32)})
    assert fingerprint(tree, {"encoder/b"}) == fingerprint({"a": tree["a"]})


def test_what_is_no_adapter(folders: dict[str, Path], model: Model, tmp_path: Path, capsys) -> None:
    def fails(source: Path, form: str, message: str) -> None:
        assert main(["convert", str(source), str(tmp_path / "x"), "--to", form]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "x").exists() and not list(tmp_path.glob(".x*"))

    fails(folders["base"], "adapter", "did not start from a model")
    config, params = tuned(folders["base"], model, 5)
    fails(
        keep(tmp_path / "full", model, config, params=params),
        "adapter",
        "so it is no adapter; write it with --to transformers",
    )
    fails(folders["bottleneck"], "peft", "model.bottleneck is 4, and PEFT has no bottleneck adapters")
    fails(folders["bitfit"], "peft", "adapter.rank is 0; write an adapter")
    with pytest.raises(ValueError, match="is an adapter without its base; inspect .*base"):
        inspect(folders["lora-adapter"])
    with pytest.raises(ValueError, match="is an adapter without its base; write both with convert --to run"):
        open_initial_model(str(folders["lora-adapter"]))


def test_whole_or_not_at_all(folders: dict[str, Path], tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(adapter, "save", full)
    with pytest.raises(OSError, match="no space left"):
        adapter.write_adapter(adapter.trained_adapter(folders["lora"]), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_with_its_base_again(folders: dict[str, Path], tmp_path: Path) -> None:
    """An adapter as a run, and as an adapter once more; a base that has gone is asked for."""
    for form in ("run", "adapter"):
        assert main(["convert", str(folders["lora-adapter"]), str(tmp_path / form), "--to", form]) == 0
        again = jaxencoder.load(tmp_path / form)
        assert_trees_close(again.params, jaxencoder.load(folders["lora-adapter"]).params, 0)
    config = json.loads((tmp_path / "adapter" / "config.json").read_text())
    (tmp_path / "adapter" / "config.json").write_text(json.dumps(config | {"init_from": "gone"}))
    with pytest.raises(FileNotFoundError, match="adapts gone, which cannot be opened .* call its with_adapter"):
        jaxencoder.load(tmp_path / "adapter")
    base = jaxencoder.load(folders["base"])
    assert_trees_close(base.with_adapter(tmp_path / "adapter").params, again.params, 0)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_gives_the_logits_of_a_run(folders: dict[str, Path], tmp_path: Path, caplog) -> None:
    """A classifier that pools the first token is BERT's own; the whole way from a run to logits in torch and back."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    hf, run = tmp_path / "transformers", jaxencoder.load(folders["base"])
    run.save(hf)
    base = jaxencoder.load(hf)
    config, params = tuned(hf, dataclasses.replace(base, config=run.config), 6, adapter=LORA)
    source = keep(tmp_path / "run", base, config, params=params)
    assert main(["convert", str(source), str(tmp_path / "peft"), "--to", "peft"]) == 0
    settings = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["query", "attention.output.dense"] and settings["use_dora"]
    assert settings["modules_to_save"] == ["pooler.dense", "classifier"] and not caplog.records
    torch_model = transformers.AutoModelForSequenceClassification.from_pretrained(
        settings["base_model_name_or_path"], num_labels=3, attn_implementation="eager"
    )
    adapted = peft.PeftModel.from_pretrained(torch_model, tmp_path / "peft").eval()
    ids = np.random.default_rng(0).integers(5, base.config.model.vocab_size, (2, 9))
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    expected = peers.theirs(adapted.base_model.model, batch, "ForSequenceClassification")
    scores = peers.of_a_run(jaxencoder.load(source), batch)["logits"]
    np.testing.assert_allclose(scores, expected["logits"], rtol=1e-5, atol=1e-5)
    again = jaxencoder.load(tmp_path / "peft")
    np.testing.assert_allclose(peers.ours(again, batch)["logits"], scores, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="peft was trained on other weights than this model's; add it to .*trans"):
        again.with_adapter(tmp_path / "peft")


def test_heads_that_peft_cannot_hold(folders: dict[str, Path], model: Model, tmp_path: Path, caplog) -> None:
    objectives = {"mean": Classification(labels=3, pooling="mean"), "masked": MaskedLM()}
    for name, left in {"mean": "classifier", "masked": "mlm_head"}.items():
        config, params = tuned(folders["base"], model, 7, adapter=LORA, objective=objectives[name])
        source = keep(tmp_path / f"{name}-run", model, config, params=params)
        caplog.clear()
        assert main(["convert", str(source), str(tmp_path / name), "--to", "peft"]) == 0
        assert f"left out, as the family's heads compute something else: {left}" in caplog.text
        arrays, _ = read_tensors(tmp_path / name / "adapter_model.safetensors")
        assert all(path.startswith("base_model.model.encoder.layer.") for path in arrays)
        whole = jaxencoder.load(folders["base"]).with_adapter(tmp_path / name)
        assert_trees_close(whole.params["encoder"], jaxencoder.load(source).params["encoder"], 1e-5)
    config, params = tuned(folders["base"], model, 8, adapter=LORA)
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, trainable=("bias$", "^lora/")))
    source = keep(tmp_path / "biases-run", model, config, params=params)
    with pytest.raises(ValueError, match="encoder/.*/bias was trained besides the low-rank adapter; PEFT's"):
        peft.write_peft(adapter.trained_adapter(source), tmp_path / "biases")


def test_peft_needs_the_files_of_a_base(folders: dict[str, Path], model: Model, tmp_path: Path) -> None:
    base = tmp_path / "base"
    jaxencoder.load(folders["base"]).save(base, format="sentence-transformers")
    config, params = tuned(base, model, 9, adapter=LORA)
    source = keep(tmp_path / "run", model, config, params=params)
    (base / "1_Pooling" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"1_Pooling/config\.json is missing"):
        peft.write_peft(adapter.trained_adapter(source), tmp_path / "peft")
    assert not (tmp_path / "peft").exists()
