"""What a folder of sentence-transformers says, and the one clear sentence about each that is damaged or not understood.

Its vectors are compared with sentence-transformers' in test_sentence_parity.py.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints import sentence_transformers
from jaxencoder.checkpoints.transformers import write_model
from jaxencoder.checkpoints.weights import save_weights
from jaxencoder.model.encoder import Encoder
from jaxencoder.model.sentence import SentenceConfig
from tests.model.examples import BERT, randomized_params

D = 24


def write(folder: Path, kinds: list[str], pooling: dict, package: str = "sentence_transformers.models") -> Path:
    """The small files of a folder, in the style of the first versions."""
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds[1:], 1))]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"{package}.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": D} | pooling))
    return folder


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode_mean_sqrt_len_tokens": True, "pooling_mode_lasttoken": True}, ("mean_sqrt_len", "lasttoken")),
        ({"pooling_mode_mean_tokens": False}, ("mean",)),
        ({"pooling_mode": "max", "pooling_mode_mean_tokens": True}, ("max",)),
        ({"pooling_mode": ["mean", "cls"], "embedding_dimension": D}, ("mean", "cls")),
        ({}, ("mean",)),
    ],
)
def test_pooling_is_read_as_they_read_it(tmp_path: Path, config, expected) -> None:
    write(tmp_path, ["Transformer", "Pooling", "Normalize"], config)
    found = sentence_transformers.read(tmp_path)
    assert found == (tmp_path, SentenceConfig(expected, normalize=True), {}, D, 0, False)
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    theirs = modules.Pooling.load(str(tmp_path), subfolder="1_Pooling").pooling_mode
    ours = tuple(name.removesuffix("_tokens") for name in ([theirs] if isinstance(theirs, str) else theirs))
    assert ours == expected


@pytest.mark.parametrize(
    ("kinds", "pooling", "message"),
    [
        (["Transformer"], {}, "has the modules Transformer; a Transformer and a Pooling are needed"),
        (["CLIPModel", "Pooling"], {}, "module 'CLIPModel' .* only Transformer is supported"),
        (["Transformer", "Dense", "Pooling"], {}, "module 'Dense' .* only Pooling is supported"),
        (["Transformer", "Pooling", "CNN"], {}, "module 'CNN' .* only Dense or LayerNorm or Normalize is"),
        (["Transformer", "Pooling"], {"pooling_mode": "first"}, r"pooling_mode \['first'\]; supported are"),
        (["Transformer", "Pooling"], {"pooling_mode": []}, r"pooling_mode \[\]"),
        (["Transformer", "Pooling"], {"pooling_mode": [["cls"]]}, r"pooling_mode \[\['cls'\]\]"),
        (["Transformer", "Pooling"], {"word_embedding_dimension": "24"}, "embedding_dimension '24'; an integer"),
        (["Transformer", "Pooling"], {"include_prompt": "no"}, "include_prompt 'no'; true or false"),
    ],
)
def test_what_cannot_be_loaded_is_named(tmp_path: Path, kinds, pooling, message) -> None:
    with pytest.raises(ValueError, match=message):
        sentence_transformers.read(write(tmp_path, kinds, pooling))


DENSE = {"in_features": D, "out_features": 3, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}
DENSE_WEIGHTS = {"linear.weight": (3, D), "linear.bias": (3,)}


@pytest.mark.parametrize(
    ("config", "weights", "message"),
    [
        (
            DENSE | {"activation_function": "torch.nn.modules.activation.Mish"},
            {},
            "'torch.nn.modules.activation.Mish';",
        ),
        (DENSE | {"activation_function": "mine.Tanh"}, {}, "activation_function 'mine.Tanh'; .* Identity, Tanh, ReLU"),
        (DENSE | {"in_features": 7}, DENSE_WEIGHTS | {"linear.weight": (3, 7)}, "vectors of size 7.* gets size 24"),
        (DENSE | {"out_features": 0}, {}, "out_features 0; an integer"),
        (DENSE | {"module_input_name": "token_embeddings"}, {}, "module_input_name 'token_embeddings'; only"),
        (DENSE, {"linear.weight": (D, 3), "linear.bias": (3,)}, r"linear.weight has the shape \[24, 3\], .* \[3, 24\]"),
        (DENSE, {"linear.weight": (3, D)}, "has the weights linear.weight, but .* asks for linear.bias, linear.weight"),
        (DENSE | {"bias": False}, DENSE_WEIGHTS, "has the weights linear.bias, linear.weight, but .* linear.weight$"),
        (DENSE | {"use_residual": True}, DENSE_WEIGHTS, "asks for linear.bias, linear.weight, residual.weight"),
        ([], {}, "does not hold a JSON object"),
        (DENSE, None, "2_Dense has no "),
        (None, {}, "config.json is missing, so the folder is incomplete"),
    ],
)
def test_damaged_dense(tmp_path: Path, config, weights, message) -> None:
    write(tmp_path, ["Transformer", "Pooling", "Dense"], {})
    place = tmp_path / "2_Dense"
    if config is not None:
        place.mkdir()
        (place / "config.json").write_text(json.dumps(config))
        if weights is not None:
            save_weights({name: np.zeros(shape, np.float32) for name, shape in weights.items()}, place)
    with pytest.raises((ValueError, OSError), match=message):
        sentence_transformers.read(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", {}, "does not hold a JSON list"),
        ("modules.json", ["Transformer"], "has 'Transformer' for a module"),
        ("config_sentence_transformers.json", {"prompts": ["query: "]}, "has prompts .*; names and texts are needed"),
        ("config_sentence_transformers.json", {"prompts": {"q": 1}}, "has prompts"),
        ("config_sentence_transformers.json", {"default_prompt_name": "q"}, "'q', but its prompts are none"),
        ("config_sentence_transformers.json", {"truncate_dim": 0}, "truncate_dim 0; an integer"),
        ("config_sentence_transformers.json", {"similarity_fn_name": 1}, "similarity_fn_name 1"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "SparseEncoder; only SentenceT"),
        ("sentence_bert_config.json", {"max_seq_length": "77"}, "maximal length of '77'; an integer"),
        ("sentence_bert_config.json", {"max_seq_length": 2}, "maximal length of 2; at least 3"),
        ("sentence_bert_config.json", {"do_lower_case": 1}, "do_lower_case 1; true or false"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task 'fill-mask'; only"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {}}}, "has processing_kwargs"),
        ("tokenizer_config.json", {"model_max_length": "long"}, "maximal length of 'long'"),
    ],
)
def test_damaged_settings(tmp_path: Path, file: str, content, message: str) -> None:
    write(tmp_path, ["Transformer", "Pooling"], {})
    assert sentence_transformers.read(tmp_path).max_length == 0
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        sentence_transformers.read(tmp_path)


def test_modules_stay_in_the_folder_and_in_the_package(tmp_path: Path) -> None:
    write(tmp_path, ["Transformer", "Pooling"], {}, "mine")
    with pytest.raises(ValueError, match=r"module 'Transformer' \(mine\.Transformer\)"):
        sentence_transformers.read(tmp_path)
    for path in ("../1_Pooling", "/etc"):
        modules = [
            {"path": at, "type": f"sentence_transformers.models.{kind}"}
            for kind, at in (("Transformer", ""), ("Pooling", path))
        ]
        (tmp_path / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(ValueError, match="is outside the folder"):
            sentence_transformers.read(tmp_path)


def test_pooling_of_another_size(tmp_path: Path) -> None:
    params = randomized_params(lambda key: Encoder(BERT).init(key, *[np.ones((1, 1), np.int32)] * 3)["params"])
    write_model(tmp_path, BERT, {"encoder": params})
    write(tmp_path, ["Transformer", "Pooling"], {"word_embedding_dimension": 12})
    with pytest.raises(ValueError, match="pools vectors of size 12, but the encoder's have size 24"):
        jaxencoder.load(tmp_path)
