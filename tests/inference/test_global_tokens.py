"""Which tokens are global: masks to places, what each head wants by itself, and what cannot be asked for."""

import jax
import numpy as np
import pytest

from jaxencoder.inference.global_tokens import global_slots, head_mask
from jaxencoder.model.heads import Classifier, HeadConfig
from jaxencoder.tasks.classification.classify import score
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.text.config import WindowConfig

QUESTIONS = np.array([[0, 7, 8, 2, 2, 9, 9, 2, 1], [2, 7, 2, 8, 8, 8, 8, 8, 2]])  # separators are 2


@pytest.mark.parametrize(
    ("mask", "slots"),
    [
        ([[1, 0, 1, 1], [0, 0, 1, 0]], [[0, 2, 3, -1], [2, -1, -1, -1]]),
        ([[0, 0, 1], [0, 0, 0]], [[2], [-1]]),
        ([[0, 1, 1], [1, 1, 1]], [[1, 2, -1], [0, 1, 2]]),  # no more than there are tokens
        ([[0, 0], [0, 0]], None),
        (np.zeros((0, 4)), None),
    ],
)
def test_places_of_a_mask(mask: list, slots: list | None) -> None:
    found = global_slots(np.array(mask))
    assert (found if found is None else found.tolist()) == slots


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", [[], []]), ("first", [[0], [0]]), ("question", [[0, 1, 2], []]),
        ("answer", [[5, 6, 7, 8], list(range(2, 9))]),
    ],
)  # fmt: skip
def test_what_a_head_wants(kind: str, expected: list[list[int]]) -> None:
    heads = [HeadConfig("cls"), HeadConfig("pooled", global_tokens=kind, separator=2)]
    assert [np.flatnonzero(row).tolist() for row in head_mask(heads, QUESTIONS)] == expected


@pytest.mark.parametrize("separator", [8, None])
def test_a_row_without_a_question(separator: int | None) -> None:
    message = f"row 0 has . separators .token id {separator}., but a question with its text has 3"
    with pytest.raises(ValueError, match=message):
        head_mask([HeadConfig(global_tokens="question", separator=separator)], QUESTIONS)


def test_what_cannot_be_asked_for(make_model) -> None:
    ids = np.ones((2, 5), int)
    with pytest.raises(ValueError, match="has no global tokens; leave global_attention_mask out"):
        make_model()(ids, None, None, ids)
    with pytest.raises(ValueError, match=r"has the shape \[2, 4\], but token_ids \[2, 5\]"):
        make_model(windows=(2,), global_tokens=True)(ids, None, None, ids[:, :4])


def test_embeddings_of_other_models_have_no_global_tokens(make_model) -> None:
    model = make_model(windows=(2,), global_tokens=True)
    text = "the cat sat on a mat while seven old men walked slowly"
    ids = model.tokenize([text])[0][None]
    local, chosen = (np.asarray(model(ids, None, None, mask)["hidden"])[0] for mask in (None, ids == ids[0, 0]))
    np.testing.assert_allclose(model.embed([text], pooling="cls")[0], local[0], atol=2e-5)
    assert np.abs(chosen[0] - local[0]).max() > 0.1


def test_a_run_has_the_first_token_global_wherever_it_was_trained_so(make_model) -> None:
    """A classifier that pools [CLS]: training, classes, vectors, token vectors, windows and the plain call agree."""
    text = "the cat sat on a mat while seven old men walked slowly"
    run = make_model(Classification(labels=3), windows=(2,), global_tokens=True)
    ids = run.tokenize([text])[0][None]
    mask = (np.arange(ids.shape[1]) == 0)[None].astype(int)
    hidden = np.asarray(run(ids, None, None, mask)["hidden"])
    np.testing.assert_allclose(run(ids)["hidden"], hidden, atol=2e-5)
    np.testing.assert_allclose(run.embed([text, "the cat"], pooling="cls")[0], hidden[0, 0], atol=2e-5)
    np.testing.assert_allclose(run.embed([text], pooling="cls", windows=WindowConfig())[0], hidden[0, 0], atol=2e-5)
    for windows in (None, WindowConfig()):
        np.testing.assert_allclose(run.tokens([text, "rome"], windows=windows)[0][0], hidden[0], atol=2e-5)
    head = Classifier(run.config.model, 3, "cls", 0.0)
    logits = head.apply({"params": run.params["classifier"]}, hidden, np.ones_like(ids), 1, False)
    np.testing.assert_allclose(score(run, [text]).scores[0], logits[0, 0], atol=1e-4)
    objective = run.config.objective.build(run.config.model, run.compute, None)
    batch = {"token_ids": ids, "segment_ids": ids * 0 + 1, "positions": np.arange(ids.shape[1])[None]}
    batch["labels"] = np.zeros((1, 1), int)
    trained = objective.scores(run.params, batch, jax.random.key(0), False)
    np.testing.assert_allclose(trained[0, 0], logits[0, 0], atol=1e-4)
    local = run(ids, None, None, mask * 0)["hidden"]
    assert np.abs(local - hidden)[0, 0].max() > 0.1
    by_mean = make_model(Classification(labels=3, pooling="mean"), windows=(2,), global_tokens=True)
    np.testing.assert_allclose(by_mean(ids)["hidden"], by_mean(ids, None, None, mask * 0)["hidden"], atol=2e-5)
