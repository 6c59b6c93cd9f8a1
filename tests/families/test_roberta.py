"""Positions from ids: those of RoBERTa's relatives depend on where the padding's id stands in a row."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints.transformers import open_transformers
from jaxencoder.checkpoints.weights import open_weights
from jaxencoder.families import FAMILIES
from jaxencoder.families.published import can_hold, family_of, parse_settings
from jaxencoder.model.encoder import Encoder
from tests.families import peers

SHIFTED = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "xlm-roberta-xl", "roberta-prelayernorm")
PARITY = [(family, pad) for family in SHIFTED for pad in (0, 1, 7)] + [("esm", 1)]


@pytest.mark.parametrize(("family", "pad"), PARITY)
def test_padding_within_a_row(family: str, pad: int, tmp_path: Path) -> None:
    """As a text has it that contains <pad>, or a body whose pad_token_id is a token of every text."""
    settings = peers.MODELS[family][0] | {"pad_token_id": pad}
    if family == "esm":
        settings |= {"position_embedding_type": "absolute", "token_dropout": False}
    model = peers.torch_model(family, settings, "Model")
    peers.saved(model, tmp_path / "published")
    batch = peers.accepted(model, peers.padded_batch(settings), "Model")
    for row, column in ((0, 0), (0, 3), (0, 4), (0, 16), (1, 8)):
        batch["input_ids"][row, column] = pad
    expected = peers.theirs(model, batch, "Model")
    ours = jaxencoder.load(tmp_path / "published", dtype="float32")
    peers.assert_outputs(peers.ours(ours, batch), expected, batch["attention_mask"], 1e-5)
    ours.save(tmp_path / "saved")
    written = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert written["pad_token_id"] == (1 if family == "mpnet" else pad)
    before, after = (open_weights(tmp_path / name) for name in ("published", "saved"))
    for name in after.keys() & before.keys():
        unused = ours.config.model.position_pad_id if "position_embeddings" in name else 0
        np.testing.assert_allclose(after[name][unused:], before[name][unused:], atol=1e-6, err_msg=name)


def test_documents_of_a_row_count_apart(tmp_path: Path) -> None:
    """A packed row gives what its documents give alone."""
    peers.saved(peers.torch_model("roberta", peers.MODELS["roberta"][0], "Model"), tmp_path)
    checkpoint = open_transformers(tmp_path)
    c, params = checkpoint.config.model, {"params": checkpoint.params["encoder"]}
    documents = [np.array(ids) for ids in ([0, 9, 1, 8, 2], [1, 1, 5], [0, 6, 7, 1, 3, 2])]
    ids, segments = np.concatenate(documents), np.repeat([1, 2, 3], list(map(len, documents)))
    positions = np.concatenate([np.arange(len(x)) for x in documents])
    packed = Encoder(c).apply(params, *(jnp.asarray(x)[None] for x in (ids, segments, positions)))
    alone = [Encoder(c).apply(params, x[None], jnp.ones_like(x)[None], jnp.arange(len(x))[None]) for x in documents]
    np.testing.assert_allclose(packed[0], np.concatenate([x[0] for x in alone]), atol=2e-2)  # bfloat16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pad_token_id": None}, "config.json has pad_token_id None; an integer is needed"),
        ({"pad_token_id": -1}, "config.json has pad_token_id -1; positions need one below 67"),
        ({"pad_token_id": 67}, "config.json has pad_token_id 67; positions need one below 67"),
        ({"pad_token_id": 20, "max_position_embeddings": 21}, "max_position_embeddings 21; none follows"),
    ],
)
def test_no_positions(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_settings({"model_type": "roberta"} | peers.MODELS["roberta"][0] | settings, "folder")


def test_families_that_count_and_those_that_do_not() -> None:
    """BERT's config.json cannot say that positions leave out an id, nor RoBERTa's that they do not."""
    families = {family.model_type: family for family in FAMILIES}
    _, bert = parse_settings({"model_type": "bert"} | peers.SIZES, "folder")
    with pytest.raises(ValueError, match="model.position_pad_id is -1; this family needs an id"):
        families["roberta"].settings(bert)
    _, roberta = parse_settings({"model_type": "roberta"} | peers.MODELS["roberta"][0], "folder")
    assert not can_hold(families["bert"], roberta) and family_of(roberta).model_type == "roberta"
