"""Longformer against transformers where the other families have nothing: windows, and global tokens of any choice."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxencoder
from jaxencoder.families.longformer import LONGFORMER
from jaxencoder.model.config import ComputeConfig
from tests.families.peers import MODELS, accepted, assert_outputs, ours, padded_batch, saved, torch_model

SETTINGS = MODELS["longformer"][1]  # three layers and token types


def test_any_tokens_can_be_global(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    T = 31  # no multiple of the window: transformers fills the rows up
    model = torch_model("longformer", SETTINGS, "Model")
    loaded = jaxencoder.load(saved(model, tmp_path), dtype="float32")
    batch = accepted(model, padded_batch(SETTINGS, T), "Model")
    mask = batch["attention_mask"]
    chosen = np.zeros_like(mask)
    chosen[0, [0, 5, 13, 14, 30]] = chosen[1, [8, 9, 20]] = 1  # of the second row, one is no padding
    with torch.no_grad():
        out = model(**{name: torch.tensor(x) for name, x in (batch | {"global_attention_mask": chosen}).items()})
    expected = {"hidden": out.last_hidden_state.numpy(), "pooled": out.pooler_output.numpy()}
    inputs = (batch["input_ids"], mask, batch["token_type_ids"])
    assert_outputs({name: np.asarray(x) for name, x in loaded(*inputs, chosen).items()}, expected, mask, 1e-4)

    banded = dataclasses.replace(loaded, compute=ComputeConfig(dtype="float32", attention="banded"))
    longer = [np.pad(x, [(0, 0), (0, 9)]) for x in (*inputs, chosen)]
    again = {name: np.asarray(x)[:, :T] if name == "hidden" else np.asarray(x) for name, x in banded(*longer).items()}
    assert_outputs(again, expected, mask, 1e-4)

    local = ours(loaded, batch)  # without global tokens all rows differ
    assert np.abs(local["hidden"] - expected["hidden"])[0].max() > 0.1
    np.testing.assert_allclose(local["hidden"][2, :3], expected["hidden"][2, :3], atol=1e-4)


def test_a_missing_question_is_named(tmp_path: Path) -> None:
    settings = MODELS["longformer"][0]
    loaded = jaxencoder.load(saved(torch_model("longformer", settings, "ForQuestionAnswering"), tmp_path))
    ids = np.array([[0, 7, 2, 2, 8, 9, 2], [0, 7, 8, 9, 9, 9, 2]])
    with pytest.raises(ValueError, match=r"row 1 has 1 separators \(token id 2\), but a question with its text has 3"):
        loaded(ids)
    question = (np.arange(7) < 2) * np.ones((2, 1))
    got = loaded(ids, None, None, question)["start_logits"]
    np.testing.assert_array_equal(got[:1], loaded(ids[:1])["start_logits"])


@pytest.mark.parametrize(
    ("published", "windows"),
    [(6, (3,)), ([4, 4, 4, 4], (2,)), ([4, 8, 4, 8], (2, 4)), ([4, 4, 8, 4], (2, 2, 4)), ([2, 4, 6, 8], (1, 2, 3, 4))],
)
def test_windows_both_ways(published: int | list[int], windows: tuple[int, ...]) -> None:
    settings: dict[str, Any] = SETTINGS | {"num_hidden_layers": 4, "attention_window": published}
    config = LONGFORMER.encoder_config(settings)
    assert config.windows == windows
    widths = [published] * 4 if isinstance(published, int) else published
    assert LONGFORMER.settings(config)["attention_window"] == widths
    assert LONGFORMER.encoder_config(SETTINGS | LONGFORMER.settings(config)) == config


@pytest.mark.parametrize("wrong", [0, 7, [4, 4], [4, 5, 4], [4, -4, 4], [4, 4, "4"], "local", None])
def test_windows_that_cannot_be_loaded(wrong: Any, tmp_path: Path) -> None:
    settings = SETTINGS | {"model_type": "longformer", "attention_window": wrong}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="attention_window"):
        jaxencoder.load(tmp_path)


def test_a_layer_without_a_window_is_not_written() -> None:
    config = dataclasses.replace(LONGFORMER.encoder_config(SETTINGS), global_tokens=False, windows=(0, 4, 4))
    with pytest.raises(ValueError, match=r"model\.windows is \(0, 4, 4\); Longformer's config\.json needs a window"):
        LONGFORMER.settings(config)
