"""Settings of config.json that few folders have, against torch: what is read, saved again and read by torch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints.transformers import open_transformers
from jaxencoder.families.modernbert import MODERNBERT
from jaxencoder.families.ultrabert import ULTRABERT
from tests.checkpoints.test_heads import compared, edit
from tests.families.peers import MODELS, accepted, assert_outputs, ours, padded_batch, saved, theirs, torch_model

HEAD, CLASSES = "ForMaskedLM", "ForSequenceClassification"
TABLE = "roformer.encoder.embed_positions.weight"
CASES: list[tuple[str, str, dict[str, Any]]] = [
    *(("bert", HEAD, {"hidden_act": name}) for name in ("gelu_10", "gelu_accurate", "mish", "relu6")),
    *((family, HEAD, {"hidden_act": "relu"}) for family in ("roberta", "mpnet")),
    *(("albert", HEAD, {"num_hidden_layers": n, "num_hidden_groups": groups}) for n, groups in ((5, 2), (7, 3))),
    ("eurobert", HEAD, {"head_dim": 8}),
    ("eurobert", CLASSES, {"classifier_pooling": "bos"}),
]


def read_and_written(family: str, kind: str, settings: dict[str, Any], folder: Path, **changes: Any) -> Any:
    """A folder of torch with changed settings: what we read of it is what torch reads of what we save."""
    model = torch_model(family, MODELS[family][0] | settings, kind)
    edit(saved(model, folder), **changes)
    batch = accepted(model, padded_batch(MODELS[family][0]), kind)
    expected = theirs(model, batch, kind)
    opened = jaxencoder.load(folder, dtype="float32")
    assert_outputs(ours(opened, batch), expected, batch["attention_mask"], 2e-5)
    opened.save(folder / "again")
    again = type(model).from_pretrained(folder / "again", attn_implementation="eager").eval()
    assert_outputs(theirs(again, batch, kind), expected, batch["attention_mask"], 2e-5)
    return opened


@pytest.mark.parametrize(("family", "kind", "settings"), CASES, ids=str)
def test_odd_settings(family: str, kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    read_and_written(family, kind, settings, tmp_path)


def test_the_older_name_of_a_pooling(tmp_path: Path) -> None:
    settings = {"classifier_pooling": "bos"}
    opened = read_and_written("eurobert", CLASSES, settings, tmp_path, classifier_pooling=..., clf_pooling="bos")
    assert opened.heads["sequence_head"].inputs == "cls"


def test_ultraberts_older_settings(tmp_path: Path) -> None:
    older = {"attention_windows": [4, 4, 0], "rope_theta": [10_000.0, 10_000.0, 2_560_000.0]}
    current = dict.fromkeys(("layer_types", "sliding_window", "rope_parameters"), ...)
    opened = read_and_written("ultrabert", HEAD, {}, tmp_path, **current, **older)
    assert opened.config.model.windows == (4, 4, 0) and opened.config.model.rope_theta == 2_560_000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention_windows": [4, 3, 0]}, r"attention_windows of the sizes \[3, 4\]; only one"),
        ({"attention_windows": 4}, "attention_windows 4; one window for each layer"),
        ({"rope_theta": [1.0, 2.0, 3.0]}, "several bases for sliding_attention; only one can be loaded"),
        ({"rope_theta": 7.0}, "rope_theta 7.0; one base for each of the 3 layers"),
        ({"rope_parameters": {"rope_theta": 7.0}}, "an object for each of full_attention and sliding_attention"),
    ],
    ids=str,
)
def test_ultraberts_settings_that_cannot_be_read(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ULTRABERT.encoder_config(MODELS["ultrabert"][0] | settings)


def test_modernberts_older_settings() -> None:
    def read(**settings: Any) -> Any:
        return MODERNBERT.encoder_config(MODELS["modernbert"][0] | settings)

    assert read(global_rope_theta=7.0).rope_theta_local == 10_000
    assert read(global_rope_theta=7.0, local_rope_theta=None).rope_theta_local == 7
    assert read(global_rope_theta=7.0, local_rope_theta=5.0).rope_theta_local == 5
    assert read(sliding_window=2, local_attention=8).windows == read(local_attention=4).windows == (0, 2)
    for name, value in (("sliding_window", 0), ("local_attention", 1), ("global_attn_every_n_layers", 0)):
        with pytest.raises(ValueError, match=f"config.json has {name} {value}; at least"):
            read(**{name: value})
    with pytest.raises(ValueError, match=r"layer_types \['full_attention'\]; full_attention or .* the 3 layers"):
        read(layer_types=["full_attention"])


def test_modernberts_sliding_window(tmp_path: Path) -> None:
    compared("modernbert", HEAD, tmp_path, reload=True, sliding_window=2)


def test_a_table_of_angles_in_the_file(tmp_path: Path) -> None:
    """Another base is read from it; a table of something else is refused."""

    def with_base(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        L, H = tensors[TABLE].shape
        angles = np.arange(L)[:, None] * 500.0 ** (-np.arange(0, H, 2) / H)
        return tensors | {TABLE: np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)}

    opened = compared("roformer", HEAD, tmp_path, with_base, reload=True)
    assert opened.config.model.rope_theta == pytest.approx(500, rel=1e-4)
    opened.save(tmp_path / "again")
    assert open_transformers(tmp_path / "again").config.model.rope_theta == pytest.approx(500, rel=1e-4)
    edit(tmp_path, lambda tensors: tensors | {TABLE: tensors[TABLE] * 1.01})
    with pytest.raises(ValueError, match=f"{TABLE} is no table of sines and cosines"):
        open_transformers(tmp_path)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("bert", {"hidden_act": "laplace"}, "hidden_act 'laplace'; known are gelu"),
        ("nomic_bert", {"head_dim": 6}, "head_dim 6; only the implied 12 can be loaded"),
        ("albert", {"num_hidden_groups": 4}, "num_layer_groups 4 has 3 repetitions"),
        ("bert", {"tie_word_embeddings": None}, "tie_word_embeddings None; true or false is needed"),
    ],
)
def test_settings_that_are_refused(family: str, settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    edit(saved(torch_model(family, MODELS[family][0]), tmp_path), **settings)
    with pytest.raises(ValueError, match=message):
        open_transformers(tmp_path)
