"""Settings of PEFT's adapters, and the files that it writes, against PEFT."""

import json
from pathlib import Path
from typing import Any

import pytest

import jaxencoder
from jaxencoder.adapters.peft_settings import read_settings
from tests.families import peers

pytestmark = pytest.mark.filterwarnings("ignore")  # of the peers
SETTINGS = peers.MODELS["bert"][0] | {"num_labels": 3, "id2label": {0: "bad", 1: "fair", 2: "good"}}
KIND = "ForSequenceClassification"
QUERY = "encoder.layer.{}.attention.self.query"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    pytest.importorskip("peft")
    return peers.saved(peers.torch_model("bert", SETTINGS, KIND), tmp_path_factory.mktemp("base"))


def written(base: Path, folder: Path, **options: Any) -> Any:
    """A torch model with a random adapter, which is saved in the folder."""
    import peft
    import torch
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, attn_implementation="eager")
    options = {"r": 4, "target_modules": ["query", "value"], "task_type": "SEQ_CLS"} | options
    adapted = peft.get_peft_model(model, peft.LoraConfig(**options)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if weight.requires_grad and "lora_A" not in name:
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    adapted.save_pretrained(folder)
    return adapted


def edit(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def assert_equals_peft(base: Path, folder: Path) -> None:
    """Compare what is loaded with what PEFT loads."""
    import peft
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, attn_implementation="eager")
    adapted = peft.PeftModel.from_pretrained(model, folder).eval()
    batch = peers.accepted(adapted.base_model.model, peers.padded_batch(SETTINGS), KIND)
    expected = peers.theirs(adapted.base_model.model, batch, KIND)
    loaded = jaxencoder.load(folder, dtype="float32")
    peers.assert_outputs(peers.ours(loaded, batch), expected, batch["attention_mask"], 1e-5)
    assert loaded.labels == ("bad", "fair", "good")


@pytest.mark.parametrize(
    "options",
    [
        {"alpha_pattern": {"^" + QUERY.format(0): 40, f"^bert.{QUERY.format(1)}": 30}},  # only the second one matches
        {"alpha_pattern": {"layer.0..*": 30, "query": 50}, "rank_pattern": {"self.value": 2, "alue": 7}},
        {"use_rslora": True, "use_dora": True, "lora_alpha": 3, "rank_pattern": {QUERY.format(0): 2}},
        {"layers_to_transform": [1], "layers_pattern": "layer"},
        {"layers_to_transform": 0, "target_modules": ["output.dense", "query"]},
        {"exclude_modules": [QUERY.format(0)]},
        {"exclude_modules": ".*layer.1.*", "target_modules": r".*self\.(key|query)"},
        {"target_modules": "all-linear", "fan_in_fan_out": True},
        {"target_modules": ["classifier", "key"], "task_type": None},
        {"target_modules": ["word_embeddings", "token_type_embeddings", "value"], "rank_pattern": {"word.*": 7}},
        {"target_modules": ["position_embeddings"], "use_rslora": True, "alpha_pattern": {"position_embeddings": 3}},
        {"modules_to_save": ["classifier", "pooler"], "lora_dropout": 0.5},
    ],
    ids=str,
)
def test_settings_that_are_read(base: Path, options: dict[str, Any], tmp_path: Path) -> None:
    written(base, tmp_path, **options)
    assert_equals_peft(base, tmp_path)


def test_settings_without_effect_and_older_files(base: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    written(base, tmp_path, layers_to_transform=[0, 1])
    torch.save(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_model.safetensors").unlink()
    edit(tmp_path, lora_dropout=0.3, fan_in_fan_out=True, megatron_core="x", layers_to_transform=None, unknown=None)
    assert_equals_peft(base, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bias": "lora_only"}, "has bias 'lora_only'; only 'none' can be loaded"),
        ({"bias": "all"}, "has bias 'all'; only 'none' can be loaded"),
        ({"lora_bias": True}, "has lora_bias True; only False can be loaded"),
        ({"trainable_token_indices": [3, 5]}, r"has trainable_token_indices \[3, 5\]; only None"),
        (
            {"target_modules": ["word_embeddings", "query"], "use_dora": True},
            r"has use_dora true and adapts bert\.embeddings\.word_embeddings; DoRA of tables",
        ),
        (
            {"modules_to_save": ["token_type_embeddings"]},
            r"modules_to_save \[.*\] and holds bert\.embeddings\.token_type",
        ),
        (
            {"modules_to_save": ["query"], "target_modules": ["value"]},
            r"modules_to_save \[.*\] and holds .*self\.query",
        ),
        ({"init_lora_weights": "pissa"}, "has init_lora_weights 'pissa', which changes the base"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_named(base: Path, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    written(base, tmp_path, **({"task_type": None} | options))
    with pytest.raises(ValueError, match=message) as error:
        jaxencoder.load(tmp_path)
    assert "\n" not in str(error.value)


def test_an_adapter_of_a_head_that_the_base_lacks(base: Path, tmp_path: Path) -> None:
    encoder = jaxencoder.load(peers.saved(peers.torch_model("bert", SETTINGS, "Model"), tmp_path / "encoder"))
    written(base, tmp_path / "adapter", target_modules=["classifier"], task_type=None)
    with pytest.raises(ValueError, match=r"target_modules \['classifier'\], weights of classifier"):
        encoder.with_adapter(tmp_path / "adapter")


def test_every_setting_of_peft_is_known() -> None:
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=4, target_modules=["query"]).to_dict()
    settings |= {"target_modules": ["query"], "peft_type": "LORA"}
    assert read_settings(settings, "folder").lora.rank == 4
    for name, value in settings.items():  # none of them counts as unknown, whatever its value
        try:
            read_settings(settings | {name: value or "other"}, "folder")
        except ValueError as error:
            assert "unknown" not in str(error)


def test_a_revision_of_the_base(base: Path, tmp_path: Path) -> None:
    written(base, tmp_path)
    edit(tmp_path, revision="v2")
    jaxencoder.load(tmp_path)  # a folder has no revisions
    edit(tmp_path, base_model_name_or_path="someone/model")
    with pytest.raises(ValueError, match="has revision 'v2', of its base; load someone/model with it"):
        jaxencoder.load(tmp_path)
