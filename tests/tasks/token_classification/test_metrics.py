"""Entities and their metrics equal to seqeval's, whatever the scheme in which tags are written."""

import random

import pytest

from jaxencoder.tasks.token_classification.entities import entities
from jaxencoder.tasks.token_classification.metrics import tag_metrics
from jaxencoder.tasks.token_classification.scheme import Scheme

SCHEMES = {
    "BIO": ("O", "B-x", "I-x", "B-y", "I-y"),
    "IOB1": ("O", "I-x", "I-y", "B-x"),
    "BIOES": ("O", "B-x", "I-x", "E-x", "S-x", "S-y"),
    "IOE": ("O", "I-x", "E-x", "I-y", "E-y"),
    "hyphens": ("O", "B-x-y", "I-x-y", "B-x", "I-x-B"),
    "untyped": ("O", "B", "I", "E", "S"),
    "untyped, no O": ("B", "I"),
}
# The marks of other schemes as those of BIOES.
OTHERS = {
    "BILOU": {"L": "E", "U": "S"},
    "BMES": {"M": "I"},
    "BMEWO": {"M": "I", "W": "S"},
}


@pytest.mark.parametrize("tags", SCHEMES.values(), ids=SCHEMES)
def test_equal_to_seqeval(tags):
    seqeval = pytest.importorskip("seqeval.metrics")
    rng = random.Random(0)
    true = [[rng.choice(tags) for _ in range(rng.randrange(1, 12))] for _ in range(200)]
    said = [[t if rng.random() < 0.7 else rng.choice(tags) for t in text] for text in true]
    for text in true:
        theirs = seqeval.sequence_labeling.get_entities(text)
        assert entities(text, Scheme.of(tags)) == [(kind, start, end + 1) for kind, start, end in theirs]
    found = tag_metrics(true, said)
    report = seqeval.classification_report(true, said, output_dict=True, zero_division=0)
    for name, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
        assert found[name] == pytest.approx(report["micro avg"][theirs])
        for kind, scores in found["classes"].items():
            assert scores[name] == pytest.approx(report[kind][theirs])
    assert found["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"])
    assert found["accuracy"] == pytest.approx(seqeval.accuracy_score(true, said))


@pytest.mark.parametrize("written", ["{}-{}", "{}_{}", "lower", "type first", "type first_"])
@pytest.mark.parametrize("marks", OTHERS.values(), ids=OTHERS)
def test_one_reading_of_all_schemes(marks, written):
    rng = random.Random(0)
    letters = {standard: letter for letter, standard in marks.items()}

    def spelled(tag):
        mark, _, kind = tag.partition("-")
        if mark == "O":
            return tag.lower() if written == "lower" else tag
        mark = letters.get(mark, mark)
        forms = {"lower": f"{mark}-{kind}".lower(), "type first": f"{kind}-{mark}", "type first_": f"{kind}_{mark}"}
        return forms.get(written) or written.format(mark, kind)

    tags = SCHEMES["BIOES"]
    texts = [[[rng.choice(tags) for _ in range(8)] for _ in range(100)] for _ in range(2)]
    want = tag_metrics(*texts)
    others = [[[spelled(tag) for tag in text] for text in side] for side in texts]
    assert tag_metrics(*others) == want and want["entities"] > 50
    # A model that writes its tags otherwise than the data has the same metrics.
    assert tag_metrics(others[0], texts[1], tags) == want


@pytest.mark.parametrize(
    ("tags", "want"),
    [
        ("PER PER O LOC ORG ORG", [("PER", 0, 2), ("LOC", 3, 4), ("ORG", 4, 6)]),  # a run is an entity
        ("b-PER m-PER e-PER s-LOC o", [("PER", 0, 3), ("LOC", 3, 4)]),
        ("B-a-x I-a-x x-B O", [("a-x", 0, 2)]),  # one of another order is of no scheme
        ("B I I O B", [("_", 0, 3), ("_", 4, 5)]),
        ("I-PER X I-PER O", [("PER", 0, 1), ("PER", 2, 3)]),
        ("[CLS] B-PER I-PER O", [("PER", 1, 3)]),
    ],
)
def test_spellings(tags, want):
    assert entities(tags.split()) == want


@pytest.mark.parametrize("tags", ["NOUN VERB", "N O V ^ E", "O . , ?", "B I X"])
def test_tags_that_mark_no_entities(tags):
    assert Scheme.of(tags.split()) is None


def test_tags_without_entities():
    found = tag_metrics([["NOUN", "VERB"], ["NOUN"]], [["NOUN", "NOUN"], ["NOUN"]])
    assert found["accuracy"] == pytest.approx(2 / 3) and "entities" not in found
    assert found["classes"]["VERB"] == {"precision": 0, "recall": 0, "f1": 0, "examples": 1}
    assert tag_metrics([["O", "O"]], [["O", "O"]])["f1"] == 0  # no entity to find
    assert tag_metrics([["O", "B-x"]], [["O", "O"]], ["O"])["entities"] == 1
    with pytest.raises(ValueError, match="the tags NOUN, VERB do not tell of entities"):
        entities(["NOUN", "VERB"])


def test_the_tags_of_a_model_decide_what_is_measured():
    """Not those that happen to occur: of one model the metrics are always the same ones."""
    names = ["O", "B-x", "I-x"]
    true, said = [["B-x", "I-x", "O"], ["B-x"]], [["B-x", "I-x", "O"], ["O"]]
    found = tag_metrics(true, said, names)
    assert (found["precision"], found["recall"], found["entities"]) == (1, 0.5, 2)
    stray = tag_metrics([["B-x", "I-x", "X"], ["B-x"]], said, names)  # a word that is wrong, and no entity
    assert stray == found | {"accuracy": 0.5}
    unseen = tag_metrics([["B-x", "I-x", "B-y"], ["B-x"]], said, names)
    assert unseen["recall"] == pytest.approx(1 / 3) and unseen["classes"]["y"]["examples"] == 1
    for tags, f1 in ((["B-x", "O"], 1), (["X", "O"], 0), (["O", "O"], 0)):  # a stray tag of the model is outside
        assert tag_metrics([["B-x", "O"]], [tags], [*names, "X"])["f1"] == f1
    assert tag_metrics([["Y", "O"]], [["X", "O"]], [*names, "X"])["accuracy"] == 0.5  # two stray tags are not equal


def test_a_data_set_in_another_scheme():
    """The types are those of the model, in any case; of equal meaning are equal tags."""
    said = [["B-x", "I-x", "I-x", "O", "B-y"]]
    for true in ("B-x M-x E-x O S-y", "b-X m-X e-X o s-Y", "x y z"):
        found = tag_metrics([true.split()], [said[0][: len(true.split())]], ["O", "B-x", "I-x", "B-y"])
        assert found["f1"] == (0 if true == "x y z" else 1)
    assert tag_metrics([["x", "x", "x", "O", "y"]], said, ["O", "B-x", "I-x", "B-y"])["f1"] == 0  # types of one letter
    assert tag_metrics([["b_x", "m_x", "m_x", "o", "b_y"]], said, ["O", "B-x", "I-x", "B-y"])["accuracy"] == 1
