"""Adapters in PEFT's format: merged matrices equal PEFT's, and torch computes the same."""

import dataclasses
import math
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxencoder
from jaxencoder.adapters.lora import LoraConfig, init_lora, merge_lora
from jaxencoder.adapters.peft import from_peft, to_peft
from jaxencoder.checkpoints.adapter import Adapter, fingerprint
from jaxencoder.checkpoints.peft import write_peft
from jaxencoder.config import DataConfig, RunConfig
from jaxencoder.families import FAMILIES
from jaxencoder.families.family import Family
from jaxencoder.families.published import Published
from jaxencoder.families.tables import parameter_shapes, to_tensors
from jaxencoder.model.config import EncoderConfig
from jaxencoder.parameters import flatten
from tests.families import peers

# peft asks transformers by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

KEY = jax.random.key(0)
PROJECTIONS = (r"^encoder/(?!convolution).*/kernel$",)
NEOBERT = dict(vocab_size=67, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=36)
CASES = [
    (family, family.encoder_config(settings))
    for family in FAMILIES
    for settings in (*peers.MODELS.get(family.model_type, ()), *([NEOBERT] if family.model_type == "neobert" else ()))
    if not family.distinguishing_settings  # of another family's model_type
]
NAMES = [f"{family.model_type}-{number}" for number, (family, _) in enumerate(CASES)]


def drawn(shapes: dict, scale: float, seed: int) -> dict:
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda x: random.normal(0, scale, x.shape).astype(np.float32), shapes)


def random_adapter(lora: LoraConfig, base: dict) -> dict:
    return drawn(jax.eval_shape(lambda: init_lora(lora, base, KEY)), 0.3, seed=1)


@pytest.mark.parametrize(("family", "config"), CASES, ids=NAMES)
@pytest.mark.parametrize("settings", [{}, {"dora": True, "rank_stabilized": True}], ids=["lora", "dora"])
def test_a_product_stands_where_the_matrix_does(family: Family, config: EncoderConfig, settings: dict) -> None:
    """PEFT's merged matrix equals ours, and so do the merged kernels after reading the adapter back."""
    lora = LoraConfig(rank=2, alpha=3.0, targets=PROJECTIONS, **settings)
    base = drawn({"encoder": parameter_shapes(config, False)["encoder"]}, 0.2, seed=0)
    adapter = random_adapter(lora, base)
    whole = merge_lora(lora, base | {"lora": adapter})
    tensors, peft = to_peft(lora, adapter, base, family, config)
    before, after = (to_tensors(family.encoder(config), params, config) for params in (base, whole))
    modules = {name.partition(".lora_")[0] for name in tensors}
    assert modules == {name.removesuffix(".weight") for name in before if not np.array_equal(before[name], after[name])}
    for module in modules:
        a, b = tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"]
        short = module.removeprefix(family.prefix)
        assert len(a) == peft["rank_pattern"].get(short, peft["r"])
        alpha = peft["alpha_pattern"].get(short, peft["lora_alpha"])
        matrix = before[f"{module}.weight"].astype(np.float64)
        result = matrix + alpha / (math.sqrt(len(a)) if lora.rank_stabilized else len(a)) * b @ a
        if lora.dora:
            size = tensors[f"{module}.lora_magnitude_vector"] / np.linalg.norm(result, axis=1)
            result *= size[:, None]
        np.testing.assert_allclose(result, after[f"{module}.weight"], rtol=1e-4, atol=1e-5, err_msg=module)
    published = Published(family, family.settings(config), {})
    read, back, used = from_peft(tensors, peft, base, published, config, "folder")
    assert used == tensors.keys()
    for path, kernel in flatten(merge_lora(read, base | {"lora": back})).items():
        np.testing.assert_allclose(kernel, flatten(whole)[path], rtol=1e-4, atol=1e-5, err_msg=path)


def test_heads_of_another_form_are_no_obstacle() -> None:
    """A run's head may lack the layers of the family's head of the same name; an adapter of the encoder fits."""
    family, config = next(case for case in CASES if case[0].model_type == "modernbert")
    settings = family.settings(config)
    base = drawn({"encoder": parameter_shapes(config, False)["encoder"]}, 0.2, seed=0)
    lora = LoraConfig(rank=2, targets=PROJECTIONS)
    adapter = random_adapter(lora, base)
    tensors, peft = to_peft(lora, adapter, base, family, config)
    base["token_head"] = {"output": {"kernel": np.zeros((config.hidden_size, 3)), "bias": np.zeros(3)}}
    published = Published(family, settings, {"token_head": family.heads(config, settings)["token_head"].config})
    _, read, used = from_peft(tensors, peft, base, published, config, "folder")
    assert used == tensors.keys() and flatten(read).keys() == flatten(adapter).keys()


def test_targets_name_what_is_adapted_and_nothing_else() -> None:
    family, config = next((f, c) for f, c in CASES if f.model_type == "bert")
    base = drawn({"encoder": parameter_shapes(config, False)["encoder"]}, 0.2, seed=0)

    def targets(*patterns: str, config=config) -> list[str]:
        lora = LoraConfig(rank=2, targets=patterns)
        return to_peft(lora, random_adapter(lora, base), base, family, config)[1]["target_modules"]

    assert targets("attention/(query|value)/kernel$") == ["query", "value"]
    assert targets("attention/query/kernel$", "mlp/up/kernel$") == ["query", "intermediate.dense"]
    assert targets("mlp/down/kernel$") == [f"encoder.layer.{i}.output.dense" for i in (0, 1)]  # attention has one too
    with pytest.raises(ValueError, match="mlm_head/dense/kernel has an adapter, but PEFT's format holds only"):
        head = {"encoder": base["encoder"]} | drawn({"mlm_head": parameter_shapes(config, True)["mlm_head"]}, 1, 0)
        lora = LoraConfig(rank=2, targets=("^mlm_head/dense/kernel$",))
        to_peft(lora, random_adapter(lora, head), head, family, config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "has peft_type 'IA3'; only 'LORA' can be loaded"),
        ({"bias": "all"}, "has bias 'all'; only 'none'"),
        ({"init_lora_weights": "pissa"}, "has init_lora_weights 'pissa', which changes the base"),
        ({"r": None}, "cannot be read: r is None, and an adapter has a rank of 1 or more"),
        ({"r": 0}, "cannot be read: r is 0, and an adapter has a rank of 1 or more"),
        ({"r": "2"}, "cannot be read: r is '2'"),
        ({"r": 3}, "has 2 ranks for bert.encoder.*, but r asks for 3; correct one of them"),
        ({"rank_pattern": {".*": 3}}, r"has 2 ranks for bert.encoder.*, but rank_pattern {'.\*': 3} asks for 3"),
        ({"lora_alpha": 0}, "cannot be read: lora_alpha is 0, which is no positive number"),
        ({"use_dora": "false"}, "cannot be read: use_dora is 'false'; give true or false"),
        ({"target_modules": "("}, "cannot be read"),
        ({"target_modules": 3}, "cannot be read: target_modules is 3"),
        ({"modules_to_save": "classifier"}, "cannot be read: modules_to_save is 'classifier'"),
        ({"some_new_kind": {"x": 1}}, r"has the unknown some_new_kind {'x': 1} in its adapter_config.json"),
        ({"lora_bias": True}, "has lora_bias True; only False"),
        ({"trainable_token_indices": [1]}, r"has trainable_token_indices \[1\]; only None"),
        ({"target_modules": ["query"]}, r"has weights for .*value, which its target_modules \['query'\] leaves out"),
        ({"target_modules": "x.*"}, "which its target_modules 'x.*' leaves out"),
        ({"exclude_modules": ["query"]}, r"has weights for .*query, which its exclude_modules \['query'\] leaves out"),
        ({"layers_to_transform": 1}, r"has weights for bert.encoder.layer.0.*, which its layers_to_transform 1 leaves"),
        ({"alpha_pattern": {"*query": 4}}, r"cannot be read: alpha_pattern holds '\*query', not a regular expression"),
        ({"alpha_pattern": {"query": "four"}}, "alpha_pattern for 'query' is 'four', which is no positive number"),
        ({"alpha_pattern": {"query": math.nan}}, "cannot be read: alpha_pattern for 'query' is nan"),
        ({"alpha_pattern": ["query"]}, "cannot be read"),
    ],
)
def test_settings_that_cannot_be_read(change: dict, message: str) -> None:
    family, config = CASES[0]
    base = drawn({"encoder": parameter_shapes(config, False)["encoder"]}, 0.2, seed=0)
    lora = LoraConfig(rank=2)
    tensors, settings = to_peft(lora, random_adapter(lora, base), base, family, config)
    published = Published(family, family.settings(config), {})
    with pytest.raises(ValueError, match=message):
        from_peft(tensors, settings | change, base, published, config, "folder")
    missing = dict(tensors)
    name = next(name for name in tensors if name.endswith("lora_B.weight"))
    del missing[name]
    with pytest.raises(ValueError, match=f"folder has no {name}; the adapter is incomplete"):
        from_peft(missing, settings, base, published, config, "folder")
    with pytest.raises(ValueError, match=f"{name} has the shape"):
        from_peft(tensors | {name: tensors[name][1:]}, settings, base, published, config, "folder")
    first = name.replace("lora_B", "lora_A")
    for broken in (tensors[first][:0], tensors[first][0]):
        with pytest.raises(ValueError, match=f"{first} has the shape .*; an adapter has one row for each"):
            from_peft(tensors | {first: broken}, settings, base, published, config, "folder")
    with pytest.raises(ValueError, match="adapts no projection of this model"):
        from_peft({}, settings, base, published, config, "folder")


TORCH = ["bert", "roberta", "albert", "distilbert", "modernbert", "deberta"]


@pytest.fixture(scope="module", params=TORCH)
def base(request, tmp_path_factory) -> tuple[str, dict, Path]:
    """A family, its settings, and a folder with encoder and classifier of transformers."""
    pytest.importorskip("peft")
    family = request.param
    settings = peers.MODELS[family][0] | {"num_labels": 3}
    model = peers.torch_model(family, settings, "ForSequenceClassification")
    return family, settings, peers.saved(model, tmp_path_factory.mktemp(family))


@pytest.mark.parametrize("options", [{}, {"use_dora": True, "use_rslora": True}], ids=["lora", "dora"])
def test_reads_what_peft_writes(base: tuple[str, dict, Path], options: dict, tmp_path: Path) -> None:
    import peft
    import torch
    import transformers

    family, settings, folder = base
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager")
    options = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear", "task_type": "SEQ_CLS"} | options
    if family == "distilbert":
        options |= {"target_modules": ["q_lin", "out_lin", "lin2"]}  # peft cannot take all: it saves what it adapts
    if family != "albert":  # a layer with a rank and a scale of its own
        options |= {name: {r".*layers?\.1\..*": size} for name, size in (("rank_pattern", 3), ("alpha_pattern", 9))}
    adapted = peft.get_peft_model(model, peft.LoraConfig(**options))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
            if "magnitude" in name:
                weight.mul_(1 + 0.2 * torch.rand(weight.shape, generator=generator))
    adapted.eval().save_pretrained(tmp_path / "adapter")
    batch = peers.accepted(model, peers.padded_batch(settings), "ForSequenceClassification")
    expected = peers.theirs(adapted.base_model.model, batch, "ForSequenceClassification")
    plain = jaxencoder.load(folder)
    got = peers.ours(plain.with_adapter(tmp_path / "adapter"), batch)
    peers.assert_outputs(got, expected, batch["attention_mask"], atol=1e-5)
    assert np.abs(got["logits"] - peers.ours(plain, batch)["logits"]).max() > 0.1
    got = peers.ours(jaxencoder.load(tmp_path / "adapter"), batch)
    peers.assert_outputs(got, expected, batch["attention_mask"], 1e-5)


@pytest.mark.parametrize("options", [{}, {"dora": True, "rank_stabilized": True}], ids=["lora", "dora"])
def test_peft_loads_what_is_written(base: tuple[str, dict, Path], options: dict, tmp_path: Path) -> None:
    import peft
    import transformers

    _, settings, folder = base
    plain = jaxencoder.load(folder)
    lora = LoraConfig(rank=3, alpha=5.0, targets=PROJECTIONS, **options)
    params = {"encoder": plain.params["encoder"]}
    params["lora"] = random_adapter(lora, params)
    config = RunConfig(init_from=str(folder), model=plain.config.model, adapter=lora, data=DataConfig(row_length=8))
    paths = frozenset(f"lora/{path}" for path in flatten(params["lora"]))
    assert write_peft(Adapter(config, params, paths, fingerprint(params["encoder"])), tmp_path / "adapter") == []
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager")
    adapted = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    batch = peers.accepted(model, peers.padded_batch(settings), "Model")
    expected = peers.theirs(adapted.base_model.model, batch, "Model")["hidden"]
    there = batch["attention_mask"].astype(bool)
    whole = dataclasses.replace(plain, params=plain.params | merge_lora(lora, params))
    np.testing.assert_allclose(peers.ours(whole, batch)["hidden"][there], expected[there], rtol=1e-5, atol=1e-5)
    again = plain.with_adapter(tmp_path / "adapter")
    np.testing.assert_allclose(peers.ours(again, batch)["hidden"][there], expected[there], rtol=1e-5, atol=1e-5)
