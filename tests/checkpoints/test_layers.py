"""Models with some of the layers of another."""

import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints.layers import keep_layers, with_layers
from jaxencoder.checkpoints.opening import open_checkpoint
from tests.inference.published import published

TEXT = "rome bread paris cat " * 5


@pytest.mark.parametrize(
    ("family", "settings", "layers", "windows"),
    [
        ("bert", {"num_hidden_layers": 4}, (0, 2, 3), (0,)),
        ("bert", {"num_hidden_layers": 4}, (2,), (0,)),
        ("modernbert", {"num_hidden_layers": 6, "global_attn_every_n_layers": 3}, (0, 1, 2, 3, 5), (0, 4, 4)),
        ("modernbert", {"num_hidden_layers": 6, "global_attn_every_n_layers": 3}, (0, 3), (0,)),
    ],
)
def test_equals_the_model_without_the_other_layers(family, settings, layers, windows, tokenizer, tmp_path) -> None:
    torch = pytest.importorskip("torch")
    theirs = published(family, "Model", tokenizer, tmp_path / "whole", **settings)
    kind = keep_layers(tmp_path / "whole", tmp_path / "some", layers)
    assert kind == "transformers"
    ours = jaxencoder.load(tmp_path / "some", dtype="float32")
    assert ours.config.model.num_layers == len(layers) and ours.config.model.windows == windows
    stack = theirs.encoder if family == "bert" else theirs
    name = "layer" if family == "bert" else "layers"
    setattr(stack, name, torch.nn.ModuleList([getattr(stack, name)[i] for i in layers]))
    ids = ours.tokenize([TEXT])[0]
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([ids.tolist()])).last_hidden_state[0].numpy()
    np.testing.assert_allclose(ours.tokens([TEXT])[0][0, : len(ids)], expected, atol=2e-5)


def test_refusals(make_model, tokenizer, tmp_path) -> None:
    with pytest.raises(ValueError, match="layers are 2 1, but the model has 2 layers; give increasing numbers"):
        with_layers(make_model(num_layers=2), (2, 1))
    with pytest.raises(ValueError, match="share their parameters, so that none can be left out"):
        with_layers(make_model(num_layers=2, num_layer_groups=1), (1,))
    published("modernbert", "Model", tokenizer, tmp_path)
    with pytest.raises(ValueError, match="the first layer of the model has no norm before its attention; keep layer 0"):
        with_layers(open_checkpoint(tmp_path), (1, 2))
