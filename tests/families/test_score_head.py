"""Decoders' classifiers of texts, a projection of the last token that is not padding, against transformers."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxencoder
from jaxencoder.api import Model
from jaxencoder.families import classifier
from jaxencoder.families.published import parse_settings
from jaxencoder.families.qwen3 import QWEN3
from jaxencoder.inference.model import outputs
from jaxencoder.tasks.classification.objective import Classification
from tests.families.make_golden import reloaded
from tests.families.peers import DECODERS, MODELS, ours, padded_batch, saved, theirs, torch_model
from tests.model.examples import assert_trees_close

KIND, PAD = "ForSequenceClassification", 3


def settings_of(family: str, number: int, **changes: Any) -> dict[str, Any]:
    return MODELS[family][number] | {"num_labels": 3, "pad_token_id": PAD} | changes


def batch_of(pad: int | None) -> dict[str, np.ndarray]:
    """Padded rows; with the padding's id also within a text, at the end of one, and throughout another."""
    batch = padded_batch({"pad_token_id": PAD})
    batch.pop("token_type_ids")
    if pad is None:
        return {name: x[:1] for name, x in batch.items()}
    batch["input_ids"][0, [4, 15, 16]] = pad
    batch["input_ids"][2] = pad
    return batch


@pytest.mark.parametrize("pad", [PAD, None])
@pytest.mark.parametrize(("family", "number"), [(family, n) for family in sorted(DECODERS) for n in range(3)])
def test_logits_equal_transformers(family: str, number: int, pad: int | None, tmp_path: Path, caplog) -> None:
    pytest.importorskip("torch")
    model = torch_model(family, settings_of(family, number, pad_token_id=pad), KIND)
    batch = batch_of(pad)
    expected = theirs(model, batch, KIND)["logits"]
    loaded = jaxencoder.load(saved(model, tmp_path / "theirs"), dtype="float32")
    assert not caplog.text and list(loaded.heads) == ["sequence_head"]
    np.testing.assert_allclose(ours(loaded, batch)["logits"], expected, atol=1e-4)
    loaded.save(tmp_path / "ours")
    again = reloaded(model, tmp_path / "ours")
    assert again.config.pad_token_id == pad and type(again).__name__.endswith(KIND)
    np.testing.assert_allclose(theirs(again, batch, KIND)["logits"], expected, atol=1e-5)


def test_gradients_equal_torchs(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model, batch = torch_model("qwen3", settings_of("qwen3", 0), KIND), batch_of(PAD)
    factors = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)
    (model(**{name: torch.tensor(x) for name, x in batch.items()}).logits * torch.tensor(factors)).sum().backward()
    loaded = jaxencoder.load(saved(model, tmp_path), dtype="float32")
    rows = {"token_ids": batch["input_ids"], "segment_ids": batch["attention_mask"]}
    rows |= {"positions": np.broadcast_to(np.arange(17), batch["input_ids"].shape)}
    rows = {name: jnp.asarray(x) for name, x in rows.items()}

    @jax.grad
    def gradient(params):
        heads = tuple(loaded.heads.items())
        return (outputs(loaded.config.model, loaded.compute, heads, params, rows)["logits"] * factors).sum()

    got = gradient(loaded.params)
    assert_trees_close(got["sequence_head"]["output"]["kernel"], model.score.weight.grad.numpy().T, 1e-4)
    table, others = model.model.embed_tokens.weight.grad.numpy(), np.arange(67) != PAD  # torch gives padding none
    assert_trees_close(got["encoder"]["embeddings"]["token_embedding"][others], table[others], 1e-4)


@pytest.fixture
def run(tokenizer, make_model) -> Model:
    """A fine-tuned decoder, classifying by a projection of the last token alone."""
    sizes = {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": 64}
    config = QWEN3.encoder_config(MODELS["qwen3"][0] | sizes)
    objective = Classification(labels=3, class_names=("bad", "good", "so so"), pooling="lasttoken", transform=False)
    return make_model(objective, **vars(config))


def test_a_run_is_written_for_pipelines(run: Model, tmp_path: Path, caplog) -> None:
    transformers = pytest.importorskip("transformers")
    run.save(tmp_path)
    assert not caplog.text
    texts = ["old men walked", "a cat", "the cat sat on a mat while seven old men", "bread [PAD] rome"]
    answers = transformers.pipeline("text-classification", model=str(tmp_path), top_k=None)(texts, batch_size=4)
    opened = jaxencoder.load(tmp_path, dtype="float32")
    for answer, before, after in zip(answers, run.classify(texts), opened.classify(texts), strict=True):
        shares = {share["label"]: share["score"] for share in answer}
        assert shares == pytest.approx(before.probabilities, abs=1e-5)
        assert after.probabilities == pytest.approx(before.probabilities, abs=1e-5)


def test_a_run_whose_texts_end_with_padding_loses_its_head(run: Model, tmp_path: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(classifier, "texts_end_with", lambda tokenizer, token_id: token_id == tokenizer.pad_id)
    run.save(tmp_path)
    assert "classifier (texts end with the padding token, which transformers does not pool)" in caplog.text


def test_the_token_at_the_end(tokenizer) -> None:
    assert classifier.texts_end_with(tokenizer, tokenizer.sep_id)
    assert not classifier.texts_end_with(tokenizer, tokenizer.pad_id)
    assert not classifier.texts_end_with(tokenizer, None) and not classifier.texts_end_with(None, 0)


@pytest.mark.parametrize("pad", ["0", 1.5, True])
def test_a_padding_id_that_is_no_integer(pad: Any) -> None:
    with pytest.raises(ValueError, match=f"pad_token_id {pad!r}; an integer or null is needed"):
        parse_settings(MODELS["llama"][0] | {"model_type": "llama", "pad_token_id": pad}, "folder")
