"""Pseudo-log-likelihoods: equal to masking each token by hand, and better for texts that a model knows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.cli.main import main
from jaxencoder.inference import load
from jaxencoder.inference import score as score_module
from jaxencoder.inference.score import PseudoLikelihood, score_source
from jaxencoder.tasks.classification.objective import Classification
from tests.tasks.conftest import write_records

from .conftest import SENTENCES

TEXTS = [SENTENCES[40], "the", "", SENTENCES[3]]


def by_hand(model, text: str, whole_words: bool) -> PseudoLikelihood:
    tokenizer = model.tokenizer
    ids = tokenizer.encode_batch([text])[0].ids
    starts, total, count = tokenizer.word_starts(), 0.0, 0
    for slot in range(1, len(ids) - 1):
        copy = ids.copy()
        copy[slot] = tokenizer.mask_id
        for after in range(slot + 1, len(ids) - 1):
            if not whole_words or starts[ids[after]]:
                break
            copy[after] = tokenizer.mask_id
        logits = np.asarray(model(copy[None])["mlm_logits"][0, slot], np.float64)
        total += logits[ids[slot]] - jax.nn.logsumexp(jnp.asarray(logits))
        count += 1
    return PseudoLikelihood(float(total), count)


@pytest.mark.parametrize("whole_words", [True, False])
def test_equals_masking_by_hand(model, whole_words: bool) -> None:
    for text, found in zip(TEXTS, model.score(TEXTS, whole_words), strict=True):
        expected = by_hand(model, text, whole_words)
        assert found.tokens == expected.tokens
        assert found.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-3)
    assert PseudoLikelihood(-3 * np.log(7), 3).perplexity == pytest.approx(7)
    assert np.isnan(PseudoLikelihood(0.0, 0).perplexity)


def test_copies_of_one_text_come_in_lists_of_bounded_size(model, monkeypatch) -> None:
    text = SENTENCES[40]
    (n,) = (len(x) for x in model.tokenize([text]))
    (whole,), sizes, losses = model.score([text]), [], score_module._losses
    monkeypatch.setattr(score_module, "_COPY_TOKENS", 2 * n)
    counted = lambda model, copies: sizes.append(len(copies)) or losses(model, copies)  # noqa: E731
    monkeypatch.setattr(score_module, "_losses", counted)
    (parted,) = model.score([text])
    assert max(sizes) == 2 and sum(sizes) == parted.tokens == whole.tokens
    assert parted.log_likelihood == pytest.approx(whole.log_likelihood, abs=1e-4)


def test_pieces_of_a_word_do_not_give_each_other_away(model) -> None:
    word = "matslow"  # no token of its own
    (together,), (apart,) = model.score([word]), model.score([word], whole_words=False)
    assert together.tokens == apart.tokens > 1 and together.log_likelihood != apart.log_likelihood


def test_pairs_of_a_file(model, tmp_path, monkeypatch, capsys) -> None:
    pairs = [(SENTENCES[0], SENTENCES[9]), (SENTENCES[9], SENTENCES[0]), (SENTENCES[5], SENTENCES[5])]
    source = write_records(tmp_path / "pairs.jsonl", [{"good": a, "bad": b} for a, b in pairs])
    found = [scored for _, scored in score_source(model, source, ("good", "bad"))]
    assert found[0] == found[1][::-1] and found[2][0] == found[2][1]
    monkeypatch.setattr(load, "load", lambda *_: model)
    assert main(["score", "any", "--input", source, "--text-field", "good", "--pair-field", "bad"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "good is more probable than bad in 33.3% of 3 pairs"
    assert main(["score", "any", SENTENCES[0]]) == 0
    assert f"{found[0][0].log_likelihood:.3f} nats" in capsys.readouterr().out
    assert main(["score", "any"]) == 2 and "give texts, or a source" in capsys.readouterr().err


def test_what_cannot_be_scored(model, make_model) -> None:
    with pytest.raises(ValueError, match="no masked-language-model head"):
        make_model(Classification(labels=2)).score(["a"])
    with pytest.raises(ValueError, match="field 'bad' is 3, not text"):
        list(score_source(model, [{"good": "the cat", "bad": 3}], ("good", "bad")))
