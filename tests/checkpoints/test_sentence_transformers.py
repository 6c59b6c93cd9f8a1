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
from jaxencoder.model.sentence import Dropout, SentenceConfig
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
    assert found == (tmp_path, SentenceConfig(expected, normalize=True), {}, D, 0, False, None)
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    theirs = modules.Pooling.load(str(tmp_path), subfolder="1_Pooling").pooling_mode
    ours = tuple(name.removesuffix("_tokens") for name in ([theirs] if isinstance(theirs, str) else theirs))
    assert ours == expected


@pytest.mark.parametrize(
    ("kinds", "pooling", "message"),
    [
        (["Transformer"], {}, "has the modules Transformer; a Transformer and a Pooling are needed"),
        (["CLIPModel", "Pooling"], {}, "module 'CLIPModel' .* only Transformer or Router is supported"),
        (["Transformer", "Dense", "Pooling"], {}, "module 'Dense' .* only Pooling is supported"),
        (["Transformer", "Pooling", "CNN"], {}, "module 'CNN' .* only Dense or LayerNorm or Normalize or Dropout is"),
        (["Transformer", "WordWeights", "Pooling"], {}, "module 'WordWeights' .* only Pooling is supported"),
        (["Transformer", "SpladePooling"], {}, "module 'SpladePooling' .* only Pooling is supported"),
        (["Transformer", "Pooling"], {"pooling_mode": None}, "pooling_mode None"),
        (
            ["Transformer", "Pooling"],
            {"pooling_mode_cls_token": "true"},
            "pooling_mode_cls_token 'true'; true or false",
        ),
        (["Transformer", "Pooling"], {"embedding_dimension": 12}, "embedding_dimension 12 and word_embedding_dimen"),
        (["Transformer", "Pooling"], {"pooling_mod": "cls"}, "pooling_mod 'cls', a setting .* mean 'pooling_mode'?"),
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
        (DENSE | {"module_input_name": None}, {}, "module_input_name None; only 'sentence_embedding' is"),
        (DENSE | {"scale": 2}, {}, "2_Dense/config.json has scale 2, a setting that is not supported; remove it"),
        (DENSE | {"bias": "no"}, {}, "bias 'no'; true or false"),
        (DENSE | {"bias": None}, DENSE_WEIGHTS, "has the weights linear.bias, linear.weight, but .* linear.weight$"),
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
        ("modules.json", [{"type": "a.b"}], "for a module; an object with a type and a path is needed"),
        ("config_sentence_transformers.json", {"prompts": ["query: "]}, "has prompts .*; names and texts are needed"),
        ("config_sentence_transformers.json", {"prompts": {"q": 1}}, "has prompts"),
        ("config_sentence_transformers.json", {"prompts": None}, "has prompts None"),
        ("config_sentence_transformers.json", {"default_prompt_name": "q"}, "'q', but its prompts are none"),
        ("config_sentence_transformers.json", {"default_prompt_name": ["q"]}, r"\['q'\], but its prompts"),
        (
            "config_sentence_transformers.json",
            {"similarity_fn": "dot"},
            "has similarity_fn 'dot', .* 'similar",
        ),
        ("config_sentence_transformers.json", {"truncate_dim": 0}, "truncate_dim 0; an integer"),
        ("config_sentence_transformers.json", {"model_type": "Encoder"}, "'Encoder'; supported are SentenceT"),
        ("modules.json", [{"path": "", "type": "a.b", "kwargs": ["task"]}], r"has kwargs \['task'\], not supported"),
        ("sentence_bert_config.json", {"max_seq_length": "77"}, "max_seq_length '77'; an integer"),
        ("sentence_bert_config.json", {"max_seq_length": 2}, "max_seq_length 2; .* at least 3 tokens"),
        ("sentence_bert_config.json", {"do_lower_case": 1}, "do_lower_case 1; true or false"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task 'fill-mask'; only"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {}}}, "has processing_kwargs"),
        ("sentence_bert_config.json", {"max_length": 7}, "has max_length 7, a setting that is not supported"),
        ("sentence_bert_config.json", {"query_length": 7}, "has query_length 7, not supported"),
        ("sentence_bert_config.json", {"modality_config": {"image": {}}}, "has modality_config"),
        ("sentence_bert_config.json", {"tokenizer_args": None}, "has tokenizer_args None; a JSON object"),
        ("sentence_bert_config.json", {"tokenizer_args": {"do_lower_case": True}}, "tokenizer_args in .*do_lower_case"),
        ("sentence_bert_config.json", {"tokenizer_args": {"strip_accents": None}}, "tokenizer_args in .*strip_accents"),
        (
            "sentence_bert_config.json",
            {"processor_kwargs": {"truncation_side": "left"}},
            "'left'; only 'right' is supported",
        ),
        (
            "sentence_bert_config.json",
            {"config_args": {"hidden_act": "relu"}},
            "config_args in .* has hidden_act 'relu'",
        ),
        ("sentence_bert_config.json", {"model_args": {"rotary_scaling_factor": 2}}, "has rotary_scaling_factor 2"),
    ],
)
def test_damaged_settings(tmp_path: Path, file: str, content, message: str) -> None:
    write(tmp_path, ["Transformer", "Pooling"], {})
    assert sentence_transformers.read_folder(tmp_path).max_length == 0
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        sentence_transformers.read_folder(tmp_path)


@pytest.mark.parametrize(
    ("settings", "length"),
    [
        ({"model_args": {"torch_dtype": "float16", "trust_remote_code": True}, "unpad_inputs": False}, 0),
        ({"processor_kwargs": {"padding_side": "left"}, "do_lower_case": None, "new": False, "newer": {}}, 0),
        ({"max_seq_length": 9, "query_length": None, "tokenizer_args": {}}, 9),
        ({"max_seq_length": 9, "tokenizer_args": {"model_max_length": 7, "use_fast": True}}, 7),
        ({"processor_kwargs": {"model_max_length": 7, "do_lower_case": True}}, 7),  # as in tokenizer_config.json
        ({"config_kwargs": {"hidden_act": "relu"}}, 0),  # as in config.json; 0: the tokenizer's own
        ({}, 20),
    ],
)
def test_arguments_without_effect(tmp_path: Path, settings, length: int) -> None:
    write(tmp_path, ["Transformer", "Pooling"], {})
    (tmp_path / "config.json").write_text(json.dumps({"hidden_act": "relu"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 20, "do_lower_case": True}))
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(settings))
    (tmp_path / "sentence_roberta_config.json").write_text(json.dumps({"max_seq_length": 20}))
    assert sentence_transformers.read(tmp_path).max_length == length


def test_every_model_has_a_prompt_for_queries_and_documents(tmp_path: Path) -> None:
    write(tmp_path, ["Transformer", "Pooling", "Dropout"], {})
    (tmp_path / "2_Dropout").mkdir()
    (tmp_path / "2_Dropout" / "config.json").write_text(json.dumps({"dropout": 0.2}))
    settings = {"default_prompt_name": "document", "prompts": {"query": None}, "similarity_fn_name": "euclidean"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    expected = SentenceConfig(
        modules=(Dropout(0.2),), prompts=(("query", ""), ("document", "")), default_prompt="document",
        similarity="euclidean",
    )  # fmt: skip
    assert sentence_transformers.read(tmp_path).settings == expected


def test_an_unknown_similarity_is_ignored_as_there(tmp_path: Path, caplog) -> None:
    write(tmp_path, ["Transformer", "Pooling"], {})
    for value in ("maxsim", 1, ["dot"]):
        (tmp_path / "config_sentence_transformers.json").write_text(json.dumps({"similarity_fn_name": value}))
        assert sentence_transformers.read(tmp_path).settings.similarity == "cosine"
        assert f"similarity_fn_name {value!r}, which is ignored" in caplog.text


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
