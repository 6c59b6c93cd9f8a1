"""Predictions of texts of any length: as the trainer computes them, alone or in windows that are averaged."""

import dataclasses
import json
import logging

import jax
import numpy as np
import pytest
import scipy.special

import jaxencoder
from jaxencoder.tasks.classification.classify import classifier_head, decide, score
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.tasks.classification.windows import _windows
from jaxencoder.text.config import WindowConfig
from jaxencoder.text.tokenizers.tokenizer import Encoding
from tests.inference.conftest import SENTENCES, WORDS
from tests.inference.published import published, torch_outputs

NAMES = ("a", "b", "c")
LENGTH = 16
LONG = " ".join(WORDS * 3)


@pytest.fixture(scope="module")
def classifier(make_model):
    return make_model(Classification(labels=3, class_names=NAMES), row_length=LENGTH, token_types=2)


@pytest.fixture(scope="module")
def regressor(make_model):
    return make_model(Classification(labels=1), row_length=LENGTH)


def by_hand(model, encodings: list[Encoding]) -> np.ndarray:
    """One text a row, padded, by the objective's own function."""
    ids, types, segments = np.zeros((3, len(encodings), 64), np.int32)
    for i, encoding in enumerate(encodings):
        n = len(encoding.ids)
        ids[i, :n], types[i, :n], segments[i, :n] = encoding.ids, encoding.type_ids, 1
    batch = {"token_ids": ids, "token_type_ids": types, "segment_ids": segments}
    batch |= {"positions": np.tile(np.arange(64, dtype=np.int32), (len(ids), 1)), "labels": ids[:, :1]}
    objective = model.config.objective.build(model.config.model, model.compute, None)
    return np.asarray(objective.scores(model.params, batch, jax.random.key(0), False))[:, 0]


@pytest.mark.parametrize("paired", [False, True])
def test_scores_are_those_of_the_objective(classifier, paired):
    texts = [*SENTENCES[:20], "", LONG]
    pairs = [*SENTENCES[5:25], "the cat", LONG] if paired else None
    found = score(classifier, texts, pairs)
    expected = by_hand(classifier, classifier.tokenizer.encode_batch(texts, pairs, max_length=LENGTH))
    np.testing.assert_allclose(found.scores, expected, atol=1e-4)
    assert found.truncated == sum(found.tokens > LENGTH) > 0
    whole = classifier.tokenizer.encode_batch(texts, pairs)
    assert found.tokens.tolist() == [len(encoding.ids) for encoding in whole]
    assert np.ptp(found.scores, axis=0).min() > 0.1  # the model tells texts apart


def test_second_texts_are_told_from_first_ones(classifier):
    forward, back = (score(classifier, *texts).scores for texts in ((["the cat"], ["a mat"]), (["a mat"], ["the cat"])))
    assert np.abs(forward - back).max() > 1e-2


def test_neither_order_nor_batch_matters(classifier):
    texts = [*SENTENCES[:30], LONG]
    found = score(classifier, texts, windows=WindowConfig()).scores
    again = score(classifier, texts[::-1], windows=WindowConfig(), batch_tokens=32).scores[::-1]
    np.testing.assert_allclose(found, again, atol=1e-4)


def test_windows_are_averaged_by_their_tokens(classifier, regressor):
    """With windows that do not overlap, each is a text of its own."""
    whole = classifier.tokenizer.encode_batch([LONG])[0]
    body, size = whole.ids[1:-1], LENGTH - 2
    parts = [np.r_[whole.ids[0], body[i : i + size], whole.ids[-1]] for i in range(0, len(body), size)]
    weights = [len(part) - 2 for part in parts]
    assert weights[-1] < size
    encodings = [Encoding(part, part * 0, None) for part in parts]
    shares = scipy.special.softmax(by_hand(classifier, encodings), axis=-1)
    (found,) = classifier.classify([LONG], windows=WindowConfig(size))
    expected = np.average(shares, axis=0, weights=weights)
    assert list(found.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-5)
    assert found.probability == max(found.probabilities.values())
    assert found.prediction == NAMES[expected.argmax()]
    (value,) = regressor.classify([LONG], windows=WindowConfig(size))
    expected = np.average(by_hand(regressor, encodings)[:, 0], weights=weights)
    assert (value.prediction, value.probabilities) == (pytest.approx(expected, abs=1e-4), {})


@pytest.mark.parametrize("way", ["mean", "max", "first", "length"])
def test_ways_to_pool_windows(make_model, classifier, regressor, way):
    several = make_model(Classification(labels=3, class_names=NAMES, multi_label=True), row_length=LENGTH)
    for model in (classifier, regressor, several):
        whole = model.tokenizer.encode_batch([LONG])[0]
        parts = list(_windows(0, whole, 1, LENGTH, 9))
        logits = by_hand(model, [Encoding(part.ids, part.type_ids, None) for part in parts])
        to_share = {1: lambda x: x, 3: scipy.special.expit if model is several else scipy.special.softmax}
        shares = np.stack([to_share[logits.shape[1]](row) for row in logits.astype(np.float64)])
        by_length = np.average(shares, axis=0, weights=[part.weight for part in parts])
        expected = {"mean": shares.mean(0), "max": shares.max(0), "first": shares[0], "length": by_length}[way]
        if model is classifier:
            expected = expected / expected.sum()
        stride = None if way == "first" else 9
        found, short = model.classify([LONG, "the cat"], windows=WindowConfig(stride, way))
        values = list(found.probabilities.values()) or [found.prediction]
        assert values == pytest.approx(expected.tolist(), abs=1e-4) and len(parts) > 2
        (alone,) = model.classify(["the cat"])
        assert short.probabilities == pytest.approx(alone.probabilities, abs=1e-5)
    if way == "first":
        (cut,) = classifier.classify([LONG])
        (first,) = classifier.classify([LONG], windows=WindowConfig(pooling="first"))
        assert first.probabilities == pytest.approx(cut.probabilities, abs=1e-5)


def test_what_fits_is_the_same_either_way(classifier):
    texts, pairs = SENTENCES[:20], ["the cat"] * 20
    for second in (None, pairs):
        both = [score(classifier, texts, second, windows) for windows in (None, WindowConfig())]
        fits = both[0].tokens <= LENGTH
        assert fits.sum() > 5
        np.testing.assert_allclose(both[0].scores[fits], both[1].scores[fits], atol=1e-5)


def test_of_a_pair_the_first_text_stays_whole(classifier):
    tokenizer, first = classifier.tokenizer, "the cat sat"
    whole = tokenizer.encode_batch([first], [LONG])[0]
    (size,) = tokenizer.encode_ids([LONG])[1]
    room = LENGTH - (len(whole.ids) - size)
    start, body = whole.ids[: len(whole.ids) - size - 1], whole.ids[-size - 1 : -1]
    parts = []
    for i in range(0, len(body), room):
        ids = np.r_[start, body[i : i + room], whole.ids[-1]]
        parts.append(Encoding(ids, np.r_[whole.type_ids[: len(start)], np.ones(len(ids) - len(start), int)], None))
    shares = scipy.special.softmax(by_hand(classifier, parts), axis=-1)
    weights = [len(part.ids) - len(start) - 1 for part in parts]
    (found,) = classifier.classify([first], [LONG], windows=WindowConfig(room))
    expected = np.average(shares, axis=0, weights=weights).tolist()
    assert list(found.probabilities.values()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("pair", "cut"), [(("the cat", LONG), 0), ((LONG, "the cat"), 1), ((LONG, LONG), 1)])
def test_a_first_text_that_leaves_no_room_is_cut(classifier, caplog, pair, cut):
    with caplog.at_level(logging.WARNING):
        (found,) = classifier.classify([pair[0]], [pair[1]], windows=WindowConfig())
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert caplog.messages == [f"1 of 1 texts are longer than {LENGTH} tokens and were truncated."] * cut


def test_a_stride_beyond_the_room_beside_a_first_text_is_refused(classifier):
    first = " ".join(WORDS[:8])
    room = LENGTH - len(classifier.tokenizer.encode_batch([first], [""])[0].ids)
    assert LENGTH // 4 <= room < LENGTH - 4
    with pytest.raises(ValueError, match=f"after the first text 'the cat.* room for {room} tokens.* at most 4, which"):
        classifier.classify([first], [LONG], windows=WindowConfig(room + 1))
    # What fits needs no window, and a quarter of a row is there beside any first text.
    assert len(classifier.classify([first], ["a mat"], windows=WindowConfig(room + 1))) == 1
    for stride in (room, LENGTH // 4):
        assert len(classifier.classify([first], [LONG], windows=WindowConfig(stride))) == 1
    assert len(classifier.classify([LONG], [LONG], windows=WindowConfig(LENGTH // 4))) == 1


def test_one_warning_counts_what_was_cut(classifier, caplog):
    with caplog.at_level(logging.WARNING):
        classifier.classify(["the cat", LONG, LONG, ""])
        classifier.classify([LONG], windows=WindowConfig())
    assert [record.args for record in caplog.records] == [(2, 4, "texts", LENGTH)]


@pytest.mark.parametrize("windows", [None, WindowConfig()])
def test_a_text_of_a_megabyte(classifier, windows):
    text = (LONG + " ") * (2**20 // len(LONG) + 1)
    (alone,) = classifier.classify([LONG], windows=windows)
    short, found, empty = classifier.classify([LONG, text, ""], windows=windows)
    assert short.probabilities == pytest.approx(alone.probabilities, abs=1e-4)
    if windows is None:
        assert found.probabilities == pytest.approx(alone.probabilities, abs=1e-4)
    assert sum(found.probabilities.values()) == pytest.approx(1) and np.isfinite(empty.probability)


def test_two_classes_of_one_name():
    scores = np.array([[2.0, 0.0]])
    assert decide(scores, ("x", "x"))[0][:2] == ("x", pytest.approx(1 / (1 + np.exp(-2))))
    names, probabilities, _ = decide(scores, ("x", "x"), minimum=np.array([0.5, 0.5]))[0]
    assert names == ["x", "x"] and probabilities == pytest.approx([1 / (1 + np.exp(-2)), 0.5])


def test_nothing_to_classify(classifier):
    assert classifier.classify([]) == [] and classifier.classify([], [], windows=WindowConfig()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"windows": WindowConfig(pooling="learned")}, "window pooling is 'learned', which is for embeddings"),
        ({"windows": WindowConfig(0)}, "stride is 0; windows with room for 14 tokens of a text move by 1 to 14"),
        ({"windows": WindowConfig(15)}, "stride is 15; windows with room for 14"),
        ({"windows": WindowConfig(14), "pairs": ["a mat"]}, "stride is 14; windows with room for 13"),
        ({"pairs": []}, "1 texts but 0 pairs"),
    ],
)
def test_mistakes(classifier, words, message):
    with pytest.raises(ValueError, match=message):
        classifier.classify(["the cat"], **words)
    with pytest.raises(ValueError, match="not a list of strings"):
        classifier.classify("the cat")


def test_models_without_a_classifier(model, classifier):
    with pytest.raises(ValueError, match="trained for MaskedLM and has no classifier"):
        model.classify(["the cat"])
    without = dataclasses.replace(classifier, params={"encoder": classifier.params["encoder"]})
    with pytest.raises(ValueError, match="has no classifier"):
        without.classify(["the cat"])
    assert classifier_head(classifier).names == NAMES


# On the pooler, the first token, the mean, the mean of transformed tokens, and a first token that is global.
@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "eurobert", "roberta", "longformer"])
def test_a_published_classifier_as_transformers_has_it(family, tokenizer, tmp_path):
    settings = {"classifier_pooling": "mean"} if family == "modernbert" else {}
    theirs = published(family, "ForSequenceClassification", tokenizer, tmp_path, **settings)
    model = jaxencoder.load(tmp_path)
    for texts, pairs in ((SENTENCES[:12], None), (SENTENCES[:5], SENTENCES[5:10])):
        found = score(model, texts, pairs)
        encodings = model.tokenizer.encode_batch(texts, pairs)
        expected = np.stack([x["logits"] for x in torch_outputs(theirs, encodings, "ForSequenceClassification")])
        np.testing.assert_allclose(found.scores, expected, atol=1e-4)
        assert np.ptp(expected, axis=0).max() > 0.1
    assert classifier_head(model).names == tuple(f"LABEL_{i}" for i in range(5))


@pytest.fixture(scope="module")
def cross_encoder(tokenizer, tmp_path_factory):
    """A published model of one value."""
    folder = tmp_path_factory.mktemp("cross")
    published("bert", "ForSequenceClassification", tokenizer, folder, num_labels=1)
    return folder


def with_settings(folder, tmp_path, **settings):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | settings))
    return jaxencoder.load(tmp_path)


def test_a_published_model_of_a_value(cross_encoder):
    model = jaxencoder.load(cross_encoder)
    assert classifier_head(model).names == ()
    texts = ["the cat", "a mat"], ["bread", "rome"]
    found = model.classify(*texts)
    assert [one.prediction for one in found] == score(model, *texts).scores[:, 0].tolist()
    assert all(np.isnan(one.probability) and not one.probabilities for one in found)
    cut, read = (model.classify([" ".join(WORDS * 9)], windows=windows)[0] for windows in (None, WindowConfig()))
    assert abs(cut.prediction - read.prediction) > 1e-3


def test_what_config_json_says_of_labels(cross_encoder, tmp_path):
    one = with_settings(cross_encoder, tmp_path, id2label={"0": "relevant"}, problem_type="single_label_classification")
    assert one.classify(["the cat"])[0] == ("relevant", 1.0, {"relevant": 1.0})
    several = with_settings(cross_encoder, tmp_path, problem_type="multi_label_classification")
    (name,), share = classifier_head(several).names, several.classify(["the cat"])[0].probabilities
    assert several.classify(["the cat"], threshold=0.0)[0].prediction == [name] and 0 < share[name] < 1
    assert several.classify(["the cat"], threshold=1.0)[0].prediction == []
    odd = with_settings(cross_encoder, tmp_path, problem_type="ranking")
    for ask in (classifier_head, lambda model: model.classify(["the cat"])):
        with pytest.raises(ValueError, match="has problem_type 'ranking' and 1 labels; only single"):
            ask(odd)
