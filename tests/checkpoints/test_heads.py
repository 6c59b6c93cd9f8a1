"""Heads that are found by the weights, output tables under either name, and prefixes, against torch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints.transformers import open_transformers
from jaxencoder.checkpoints.weights import open_weights, save_weights
from tests.families.peers import MODELS, accepted, assert_outputs, ours, padded_batch, saved, theirs, torch_model

Change = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def edit(folder: Path, change: Change = dict, **settings: Any) -> None:
    """Change the settings of a folder and its tensors; a setting of ... is left out."""
    path = folder / "config.json"
    content = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))
    save_weights(change(dict(open_weights(folder))), folder)


def compared(family: str, kind: str, folder: Path, change: Change = dict, reload: bool = False, **settings: Any) -> Any:
    """Open a changed folder, and compare it with torch's model; `reload`: as torch reads the changed folder."""
    model = torch_model(family, MODELS[family][0], kind)
    edit(saved(model, folder), change, **settings)
    if reload:
        model = type(model).from_pretrained(folder, attn_implementation="eager").eval()
    batch = accepted(model, padded_batch(MODELS[family][0]), kind)
    opened = jaxencoder.load(folder, dtype="float32")
    assert_outputs(ours(opened, batch), theirs(model, batch, kind), batch["attention_mask"], 2e-5)
    return opened


CLASSES = [("ForSequenceClassification", "sequence_head"), ("ForTokenClassification", "token_head")]
CLASSES += [("ForQuestionAnswering", "span_head"), ("ForMaskedLM", "mlm_head")]


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "deberta-v2"])
@pytest.mark.parametrize(("kind", "head"), CLASSES)
@pytest.mark.parametrize("names", [..., "Mine", ["Mine{}"], ["BertModel"]])
def test_a_head_is_found_by_its_weights(family: str, kind: str, head: str, names: Any, tmp_path: Path) -> None:
    if head == "mlm_head" and names == ["BertModel"]:
        return  # an encoder that is named as such has no use for the head of its pretraining
    names = [name.format(kind) for name in names] if isinstance(names, list) else names
    opened = compared(family, kind, tmp_path, architectures=names)
    assert head in opened.params


@pytest.mark.parametrize(("names", "head"), [(["X", "Y"], "sequence_head"), (["O", "B-x"], "token_head")])
def test_heads_of_the_same_tensors(names: list[str], head: str, tmp_path: Path, caplog) -> None:
    """ModernBERT's heads of texts and of tokens; the names of tags tell them apart."""
    kind = {"sequence_head": "ForSequenceClassification", "token_head": "ForTokenClassification"}[head]
    names += ["a", "b", "c"]
    opened = compared("modernbert", kind, tmp_path, architectures=None, id2label=dict(enumerate(names)))
    assert opened.labels == tuple(names) and f"weights of a {head.replace('_', ' ')}, which is read" in caplog.text


TABLES = {  # family -> the token table, the output table, the head's bias, the output's
    "bert": ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight", "cls.predictions.bias"),
    "roberta": ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight", "lm_head.bias"),
    "albert": ("albert.embeddings.word_embeddings.weight", "predictions.decoder.weight", "predictions.bias"),
    "distilbert": ("distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight", "vocab_projector.bias"),
    "modernbert": ("model.embeddings.tok_embeddings.weight", "decoder.weight", "decoder.bias"),
}


@pytest.mark.parametrize("family", TABLES)
@pytest.mark.parametrize("kept", ["output", "both", "unequal", "unequal_untied"])
def test_output_tables(family: str, kept: str, tmp_path: Path, caplog) -> None:
    """The file decides: an output table alone is the token table, and unequal tables stay apart, with their biases."""
    table, output, bias = TABLES[family]
    output_bias = output.replace("weight", "bias")

    def change(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors[output], tensors[output_bias] = tensors[table], tensors[bias]
        if kept.startswith("unequal"):
            tensors[output], tensors[output_bias] = tensors[output][::-1] * 2, tensors[output_bias] + 1
        if kept == "output":
            del tensors[table]
            tensors = {name: x for name, x in tensors.items() if name != bias or bias == output_bias}
        return tensors

    opened = compared(family, "ForMaskedLM", tmp_path, change, True, tie_word_embeddings=kept != "unequal_untied")
    assert opened.config.model.tied_output == (not kept.startswith("unequal"))
    assert open_transformers(tmp_path, weights=False).config.model == opened.config.model
    assert "not used" not in caplog.text
    opened.save(tmp_path / "again")
    again = open_transformers(tmp_path / "again")
    assert again.config.model == opened.config.model
    np.testing.assert_array_equal(again.params["mlm_head"]["bias"], opened.params["mlm_head"]["bias"])


@pytest.mark.parametrize(
    ("old", "new"), [("bert.", ""), ("bert.", "encoder."), ("bert.", "roberta."), ("", "model."), ("", "module.")]
)
def test_prefixes(old: str, new: str, tmp_path: Path, caplog) -> None:
    def change(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {new + name.removeprefix(old) if name.startswith(old) else name: x for name, x in tensors.items()}

    compared("bert", "ForSequenceClassification", tmp_path, change)
    assert not caplog.text


def test_tensors_that_are_not_known_are_named(tmp_path: Path, caplog) -> None:
    buffers = {"bert.embeddings.position_ids": np.arange(33), "other.weight": np.ones(3, np.float32)}
    compared("bert", "ForTokenClassification", tmp_path, lambda tensors: tensors | buffers)
    assert "1 weights are not used: other.weight" in caplog.text
