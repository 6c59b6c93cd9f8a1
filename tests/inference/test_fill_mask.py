import jax
import numpy as np
import pytest

from jaxencoder.inference import fill_mask
from jaxencoder.inference.fill_mask import FilledMask
from jaxencoder.model.heads import MlmHead
from jaxencoder.text.config import TokenizerConfig
from jaxencoder.text.tokenizers.training import train_tokenizer

from .conftest import SENTENCES


def all_probabilities(model, text: str) -> np.ndarray:
    """[masks, V] from the whole row of logits: the slow way."""
    ids = model.tokenizer.encode_batch([text])[0].ids
    hidden, _ = model.tokens([text])
    x, bias = MlmHead(model.config.model).apply({"params": model.params["mlm_head"]}, hidden)
    logits = x[0] @ model.params["encoder"]["embeddings"]["token_embedding"].T + bias
    return np.asarray(jax.nn.softmax(logits))[ids == model.tokenizer.mask_id]


@pytest.mark.parametrize("text", ["a cat [MASK] on a mat", "[MASK]", "[MASK] [MASK] walked slowly [MASK].", "[MASK]x"])
@pytest.mark.parametrize("k", [1, 5])
def test_the_best_tokens_of_every_mask(model, text, k):
    tokenizer = model.tokenizer
    answers = model.fill_mask(text, k)
    expected = all_probabilities(model, text)
    assert len(answers) == text.count("[MASK]") == len(expected)
    expected[:, list(tokenizer.special_ids)] = 0
    for found, probabilities in zip(answers, expected, strict=True):
        best = np.argsort(-probabilities)[:k]
        np.testing.assert_allclose([x.probability for x in found], probabilities[best], rtol=1e-3)
        assert [x.token for x in found] == [tokenizer.decode([i]) for i in best]


def test_only_its_own_mask_is_filled(model):
    first, second = model.fill_mask("seven [MASK] men [MASK] slowly", k=40)
    starts = {x.token: x for x in (*first, *second) if not x.token.startswith("##")}
    assert starts
    for found, form in ((first, "seven {} men [MASK] slowly"), (second, "seven [MASK] men {} slowly")):
        for token, probability, sentence in found:
            assert 0 < probability < 1
            expected = form.replace(" {}", token[2:]) if token.startswith("##") else form.format(token)
            assert sentence == expected


def test_the_answer_is_of_plain_types(model):
    ((filled,),) = model.fill_mask("a [MASK]", 1)
    assert isinstance(filled, FilledMask) and [type(x) for x in filled] == [str, float, str]


@pytest.mark.parametrize("kind", ["bpe", "unigram", "sentencepiece-unigram", "sentencepiece-bpe"])
def test_every_tokenizer(make_model, kind):
    size = 300 if kind == "bpe" else 70
    tokenizer = train_tokenizer(SENTENCES, TokenizerConfig(kind=kind, vocab_size=size))
    model = make_model(tokenizer=tokenizer)
    text = f"the cat {tokenizer.mask_token} on a mat"
    (found,) = model.fill_mask(text, tokenizer.vocab_size - len(tokenizer.special_ids))
    assert len({x.sentence for x in found}) > 10
    for x in found:
        assert x.token and x.sentence.startswith("the cat") and x.sentence.endswith(" on a mat")
        assert tokenizer.mask_token not in x.sentence
    words = [x for x in found if x.sentence == f"the cat {x.token} on a mat"]
    assert words


@pytest.mark.parametrize(
    ("text", "k", "message"),
    [
        ("the cat", 5, r"'the cat' has no mask to fill; write \[MASK\]"),
        ("the cat " * 100, 5, r"the cat the \.\.\.' has no mask"),
        ("", 5, "has no mask"),
        ("<mask> [mask]", 5, "has no mask"),
        ("the cat " * 100 + "[MASK]", 5, "1 of 1 masks lie beyond the 64 tokens"),
        ("[MASK] " * 100, 5, "38 of 100 masks lie beyond"),
        ("[MASK]", 0, "k is 0; give 1 to"),
        ("[MASK]", 10**6, "k is 1000000"),
    ],
)
def test_says_what_is_wrong(model, text, k, message):
    with pytest.raises(ValueError, match=message):
        model.fill_mask(text, k)


def test_control_characters_and_long_text(model):
    text = "\0\x1b a [MASK] \r\n" + "x" * 1_000_000
    (((_, _, sentence),),) = model.fill_mask(text, 1)
    assert sentence.startswith("\0\x1b a") and sentence.endswith(text[12:])


def test_only_the_best_tokens_leave_the_device(model, monkeypatch):
    outputs, predict = [], fill_mask._predict
    monkeypatch.setattr(fill_mask, "_predict", lambda *arguments: outputs.append(predict(*arguments)) or outputs[-1])
    model.fill_mask("[MASK] " * 3, 5)
    assert [x.shape for x in jax.tree.leaves(outputs)] == [(1, 4, 8)] * 2


def test_numbers_of_masks_and_answers_compile_little(make_model):
    model = make_model(mlp_size=24)
    before = fill_mask._predict._cache_size()
    for k in (5, 6, 7, 8):
        for masks in (3, 4):
            model.fill_mask("[MASK] " * masks, k)
    assert fill_mask._predict._cache_size() - before == 1
