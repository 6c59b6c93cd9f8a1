"""Prepared rows hold the documents exactly, whatever the labels and the number of workers."""

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest

from jaxencoder.tasks.question_answering.data import SCHEMA as ANSWERS
from jaxencoder.tasks.token_classification.data import SCHEMA as WORD_TAGS
from jaxencoder.text.batches import Batches
from jaxencoder.text.cache import prepare
from jaxencoder.text.config import DataConfig
from jaxencoder.text.rows import oversample
from jaxencoder.text.schema import TEXTS, Example
from jaxencoder.text.windows import text_windows
from tests.text.corpus import WORDS, config, content, documents, write


def pieces(stores):
    """[(ids, labels or None)] of every segment of every row."""
    segments_of_rows = []
    for store in stores:
        rows = store.read(np.arange(len(store)))
        for r in range(len(store)):
            segments = rows["segment_ids"][r]
            for s in range(1, segments.max() + 1):
                inside = segments == s
                places = np.flatnonzero(inside)
                assert (np.diff(places) == 1).all()
                assert rows["positions"][r][inside].tolist() == list(range(len(places)))
                label = rows["labels"][r][s - 1] if "labels" in rows else None
                segments_of_rows.append((tuple(rows["token_ids"][r][inside].tolist()), label))
    return segments_of_rows


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("row_length", [3, 7, 16, 200])
def test_every_token_is_there_once(tmp_path, tokenizer, packing, row_length):
    texts = [*documents(150), "", "   ", "\u200b"]
    source = write(tmp_path / "a.jsonl", texts)
    stores = prepare(config(source, packing=packing, row_length=row_length), tokenizer, "train")
    want, room = [], row_length - 2
    for text in texts:
        ids = tokenizer.encode_ids([text])[0].tolist()
        for start in range(0, len(ids), room):
            want.append((tokenizer.cls_id, *ids[start : start + room], tokenizer.sep_id))
    assert sorted(ids for ids, _ in pieces(stores)) == sorted(want)
    meta = stores[0].meta
    if not packing:
        assert meta["segments"] == 1 and len(stores[0]) == len(want)
    assert meta["tokens"] == sum(map(len, want)) and meta["documents"] == len(texts)
    counts = np.bincount(np.concatenate(want), minlength=tokenizer.vocab_size)
    counts[list(tokenizer.special_ids)] = 0
    np.testing.assert_array_equal(meta["token_counts"], counts)


def test_workers_do_not_change_the_rows(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("jaxencoder.text.rows._TASK_DOCUMENTS", 40)
    source = write(tmp_path / "a.jsonl", documents(400))
    settings = [config(source, workers=n, cache=str(tmp_path / f"cache{n}")) for n in (1, 2, 3)]
    stores = [prepare(data, tokenizer, "train") for data in settings]
    got = [content(store) for store in stores]
    assert got[0] == got[1] == got[2] and len({store.meta["content"] for (store,) in stores}) == 1


def test_held_out_share(tmp_path, tokenizer, capsys):
    texts = [f"{text} x" for text in documents(2000)] + ["alpha beta"] * 50
    source = write(tmp_path / "a.jsonl", texts)
    data = config(source, validation_fraction=0.1)
    train, held = (prepare(data, tokenizer, split) for split in ("train", "validation"))
    a, b = ({ids for ids, _ in pieces(stores)} for stores in (train, held))
    assert len(train[0].meta["source"]) and train[0].meta["documents"] + held[0].meta["documents"] == 2050
    assert 0.07 < held[0].meta["documents"] / 2050 < 0.13
    twin = (tokenizer.cls_id, *tokenizer.encode_ids(["alpha beta"])[0].tolist(), tokenizer.sep_id)
    assert (twin in a) != (twin in b)
    capsys.readouterr()
    prepare(data, tokenizer, "train")
    assert capsys.readouterr().out.startswith("Reusing ")


def test_nothing_held_out_is_no_error_and_too_little_is(tmp_path, tokenizer):
    source = write(tmp_path / "a.jsonl", documents(3))
    assert prepare(config(source), tokenizer, "validation") == ()
    with pytest.raises(ValueError, match="validation_fraction 0.001 holds out none.*raise it"):
        prepare(config(source, validation_fraction=0.001), tokenizer, "validation")


@pytest.mark.parametrize(
    ("labels", "names", "want"),
    [
        (["b", "a", "b"], ["a", "b"], [1, 0, 1]),
        ([10, 2, 10], ["2", "10"], [1, 0, 1]),
        ([True, False, True], ["0", "1"], [1, 0, 1]),
        ([0.5, 3, 2.25], [], [0.5, 3.0, 2.25]),
    ],
)
@pytest.mark.parametrize("packing", [True, False])
def test_labels(tmp_path, tokenizer, labels, names, want, packing):
    texts = ["alpha " * 40, "beta", ""]
    records = [{"text": t, "label": y} for t, y in zip(texts, labels, strict=True)]
    source = write(tmp_path / "a.jsonl", records)
    data = config(source, label_field="label", packing=packing, validation=(source,))
    stores = prepare(data, tokenizer, "train")
    assert stores[0].meta["labels"] == names
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    ids = [tuple(e.ids.tolist()) for e in tokenizer.encode_batch(texts, max_length=16)]
    assert ids[2] == (cls, sep) and len(ids[0]) == 16
    assert sorted(pieces(stores)) == sorted(zip(ids, want, strict=True))
    assert content(prepare(data, tokenizer, "validation")) == content(stores)


@pytest.mark.parametrize("labels", [["b", "a", "b", "a"], [0.5, 3.0, 2.25, 1.0], [["b"], [], ["a", "b"], ["a"]]])
def test_windows_have_the_label_of_their_text(tmp_path, tokenizer, labels):
    texts = ["alpha " * 40, "beta", "", "gamma " * 14]
    source = write(tmp_path / "a.jsonl", [{"text": t, "label": y} for t, y in zip(texts, labels, strict=True)])
    data = config(source, label_field="label", long_texts="windows", overlap=4)
    (store,) = prepare(data, tokenizer, "train")
    names = store.meta["labels"]
    want = []
    for window in text_windows(tokenizer, texts, 16, 10):
        label = labels[window.text]
        several = [int(name in label) for name in names] if isinstance(label, list) else None
        want.append((tuple(window.ids.tolist()), several or (names.index(label) if names else label)))
    assert len(want) == 4 + 3 and store.meta["documents"] == 4
    labeled = [(ids, label.tolist()) for ids, label in pieces([store])]
    assert sorted(labeled) == sorted(want)
    assert content(prepare(dataclasses.replace(data, workers=2), tokenizer, "train")) == content([store])
    cut = prepare(dataclasses.replace(data, long_texts="truncate", overlap=128), tokenizer, "train")
    assert cut[0].path != store.path and len(pieces(cut)) == 4
    assert prepare(dataclasses.replace(data, overlap=0), tokenizer, "train")[0].path != store.path


@pytest.mark.parametrize("settings", [{}, {"label_field": "y", "pair_field": "b"}])
def test_windows_are_for_labelled_single_texts(settings):
    with pytest.raises(ValueError, match="data.long_texts is 'windows', which is for labels of single texts"):
        DataConfig(long_texts="windows", **settings)


@pytest.mark.parametrize("settings", [{}, {"label_field": "y"}])
@pytest.mark.parametrize("schema", [TEXTS, WORD_TAGS])
def test_an_overlap_where_nothing_overlaps(settings, schema):
    with pytest.raises(ValueError, match="data.overlap is 4, but no text is split into pieces that overlap"):
        schema.check(DataConfig(overlap=4, **settings))


def test_validation_takes_the_classes_of_training(tmp_path, tokenizer):
    train = write(tmp_path / "t.jsonl", [{"text": "alpha", "label": y} for y in "cab"])
    held = write(tmp_path / "v.jsonl", [{"text": "beta", "label": "c"}])
    data = config(train, label_field="label", validation=(held,))
    store = prepare(data, tokenizer, "validation")[0]
    assert store.meta["labels"] == ["a", "b", "c"] and store.read(np.array([0]))["labels"][0, 0] == 2
    write(tmp_path / "v.jsonl", [{"text": "beta", "label": "c"}, {"text": "beta", "label": "zebra"}])
    with pytest.raises(ValueError, match="record 2: label 'zebra' is not among the classes a, b, c"):
        prepare(data, tokenizer, "validation")
    named = dataclasses.replace(data, labels=("no", "yes"), validation=())
    write(tmp_path / "t.jsonl", [{"text": "alpha", "label": 1}, {"text": "beta", "label": 0}])
    assert sorted(label for _, label in pieces(prepare(named, tokenizer, "train"))) == [0, 1]


def test_pairs(tmp_path, tokenizer):
    records = [{"text": "alpha " * n, "other": "beta " * m} for n, m in ((2, 3), (30, 2), (0, 0), (9, 30))]
    source = write(tmp_path / "a.jsonl", records)
    store = prepare(config(source, pair_field="other"), tokenizer, "train")[0]
    want = tokenizer.encode_batch([r["text"] for r in records], [r["other"] for r in records], max_length=16)
    assert sorted(ids for ids, _ in pieces([store])) == sorted(tuple(e.ids.tolist()) for e in want)
    rows = store.read(np.arange(len(store)))
    types = [rows["token_type_ids"][rows["positions"] == 15], [e.type_ids[-1] for e in want if len(e.ids) == 16]]
    assert sorted(types[0].tolist()) == sorted(types[1]) == [1, 1]
    assert rows["token_type_ids"].sum() == sum(e.type_ids.sum() for e in want)


def test_translations_mixed_with_single_texts(tmp_path, tokenizer):
    """A hash decides the order of aligned texts; rows of single texts have type ids of 0."""
    first = [" ".join(words) for words in itertools.islice(itertools.product(WORDS, repeat=3), 400)]
    second = [f"beta {text} beta" for text in first]
    (tmp_path / "a.txt").write_text("".join(f"{line}\n" for line in first))
    (tmp_path / "b.txt").write_text("".join(f"{line}\n" for line in second))
    aligned, single = f"aligned:{tmp_path}/a.txt|{tmp_path}/b.txt", write(tmp_path / "c.jsonl", documents(30))
    data = DataConfig(train=(aligned, single), row_length=32, validation_fraction=0.1, temperature=2.0, workers=1)
    stores, held = prepare(data, tokenizer, "train"), prepare(data, tokenizer, "validation")
    ways = tokenizer.encode_batch(first, second), tokenizer.encode_batch(second, first)
    ids = [[tuple(example.ids.tolist()) for example in way] for way in ways]
    rows = {ids for ids, _ in pieces([stores[0], held[0]])}
    assert all((a in rows) != (b in rows) for a, b in zip(*ids, strict=True))
    assert 0.4 < np.mean([a in rows for a in ids[0]]) < 0.6
    assert stores[0].meta["segments"] > 1
    rows = [store.read(np.arange(len(store))) for store in stores]
    assert rows[0]["token_type_ids"].any() and not rows[1]["token_type_ids"].any()
    batch = Batches(stores, data, 16).batch(0)
    assert batch["token_type_ids"].any(axis=1).sum() in range(1, 16)
    alone = prepare(dataclasses.replace(data, train=(single,), temperature=1.0), tokenizer, "train")[0]
    assert "token_type_ids" not in alone.meta["fields"]


@pytest.mark.parametrize(
    ("records", "settings", "message"),
    [
        ([""], {}, "yields no tokens"),
        ([{"text": "alpha"}], {"label_field": "label"}, "no field 'label'"),
        ([{"text": "alpha", "b": None}], {"pair_field": "b"}, "record 1: field 'b' is NoneType, not text"),
        ([{"text": "alpha", "label": None}], {"label_field": "label"}, "record 1: label None is not a class"),
        ([{"text": "a", "label": 1}, {"text": "b", "label": "x"}], {"label_field": "label"}, "'x' is text, but other"),
        ([{"text": "alpha", "label": 1}], {"label_field": "label", "labels": ("7", "8")}, "label 1 is not among"),
    ],
)
def test_hostile_records_leave_nothing(tmp_path, tokenizer, records, settings, message):
    source = write(tmp_path / "a.jsonl", records)
    cache = tmp_path / "cache"
    with pytest.raises(ValueError, match=message) as error:
        prepare(config(source, cache=str(cache), **settings), tokenizer, "train")
    assert "\n" not in str(error.value)
    assert [path.name for path in (cache / "rows").iterdir() if path.is_dir()] == []


def test_words_and_spans_keep_their_labels(tmp_path, tokenizer):
    records = [{"text": ["alpha", "beta"] * n, "tags": ["O", "B-x"] * n} for n in (1, 9, 2)]
    data = config(write(tmp_path / "a.jsonl", records), label_field="tags")
    (store,) = prepare(data, tokenizer, "train", schema=WORD_TAGS)
    assert store.meta["labels"] == ["B-x", "O"] and store.label_counts().tolist() == [12, 12]
    rows = store.read(np.arange(len(store)))
    words = rows["token_labels"] >= 0
    names = np.array(tokenizer.tokens(rows["token_ids"][words].tolist()))
    assert (np.array(store.meta["labels"])[rows["token_labels"][words]] == np.where(names == "beta", "B-x", "O")).all()
    batch = Batches((store,), data, len(store) + 1, shuffle=False).batch(0)
    assert (batch["token_labels"][-1] == -1).all() and batch["token_labels"].shape == batch["token_ids"].shape

    answers = [{"text": ["gamma"], "answer_start": [30]}, {"text": [], "answer_start": []}]
    records = [{"text": "beta", "c": "alpha " * 5 + "gamma" + " beta" * 9, "a": a} for a in answers]
    data = config(write(tmp_path / "b.jsonl", records), pair_field="c", label_field="a", overlap=2)
    (store,) = prepare(data, tokenizer, "train", schema=ANSWERS)
    rows = store.read(np.arange(len(store)))
    at = rows["token_labels"] == store.meta["labels"].index("both")
    ids = rows["token_ids"][at]
    assert set(tokenizer.tokens(ids.tolist())) == {"gamma", tokenizer.token(tokenizer.cls_id)}
    assert at.sum() == store.meta["pieces"] > 2 and rows["token_type_ids"].any()


@pytest.mark.parametrize(
    ("record", "settings", "message"),
    [
        ({"text": "alpha", "t": ["O"]}, {}, "field 'text' is str, not a list of words"),
        ({"text": ["alpha", 3], "t": ["O", "O"]}, {}, "field 'text' is list, not a list of words"),
        ({"text": ["alpha"], "t": "O"}, {}, "record 1: the tags are str, not a list"),
        ({"text": ["alpha"], "t": []}, {}, "record 1: 1 words, but 0 tags"),
        ({"text": ["alpha"], "t": [None]}, {}, "label None is not a class"),
        ({"text": ["alpha"], "t": [0.5]}, {}, "the tags in field 't' are fractional numbers"),
        ({"text": ["alpha"], "t": ["B-y"]}, {"labels": ("O", "B-x")}, "label 'B-y' is not among the classes O, B-x"),
    ],
)
def test_hostile_words(tmp_path, tokenizer, record, settings, message):
    source = write(tmp_path / "a.jsonl", [record])
    with pytest.raises(ValueError, match=message):
        prepare(config(source, label_field="t", **settings), tokenizer, "train", schema=WORD_TAGS)


def test_lists_of_classes(tmp_path, tokenizer, capsys):
    texts = documents(40, longest=5)
    names = ["a", "b", "c"]
    lists = [[name for k, name in enumerate(names) if i >> k & 1] for i in range(40)]
    source = write(tmp_path / "a.jsonl", [{"text": t, "label": y[::-1]} for t, y in zip(texts, lists, strict=True)])
    data = config(source, label_field="label")
    (store,) = stores = prepare(data, tokenizer, "train")
    assert capsys.readouterr().out.endswith("; labels are any of 3 classes: a, b, c\n")
    assert store.meta["labels"] == names and store.meta["label_kind"] == "classes"
    assert store.label_counts().tolist() == [sum(n in y for y in lists) for n in names]
    want = [(tuple(tokenizer.encode_batch([t])[0].ids), y) for t, y in zip(texts, lists, strict=True)]
    got = [(ids, [n for n, is_set in zip(names, label, strict=True) if is_set]) for ids, label in pieces(stores)]
    assert sorted(got) == sorted(want)
    batch = Batches((store,), data, len(store) + 1, shuffle=False).batch(0)
    assert batch["labels"].dtype == np.int8 and (batch["labels"][-1] == -1).all()
    assert batch["labels"].shape == (len(store) + 1, store.meta["segments"], 3)
    # Names in another order, and ids in place of names.
    numbers = write(tmp_path / "b.jsonl", [{"text": "alpha", "label": [2, 0]}, {"text": "beta", "label": []}])
    (store,) = prepare(config(numbers, label_field="label", labels=("x", "y", "z")), tokenizer, "train")
    assert sorted(label.tolist() for _, label in pieces((store,))) == [[0, 0, 0], [1, 0, 1]]
    (store,) = prepare(config(numbers, label_field="label"), tokenizer, "train")
    assert store.meta["labels"] == ["0", "2"]
    # 0 or 1 for each class.
    indicators = write(tmp_path / "c.jsonl", [{"text": "alpha", "label": [0, 1]}, {"text": "beta", "label": [1.0, 0]}])
    for settings, classes in (({}, ["0", "1"]), ({"labels": ("x", "y")}, ["x", "y"])):
        (store,) = prepare(config(indicators, label_field="label", **settings), tokenizer, "train")
        assert store.meta["labels"] == classes and store.meta["label_kind"] == "classes"
        assert sorted(label.tolist() for _, label in pieces((store,))) == [[0, 1], [1, 0]]


def test_unlabeled_examples_are_left_out(tmp_path, tokenizer, capsys):
    records = [{"text": text, "label": [0, 1, 2, -1][i % 4]} for i, text in enumerate(documents(40, longest=5))]
    source = write(tmp_path / "a.jsonl", records)
    for settings in ({}, {"balance": 1.0}, {"labels": ("x", "y", "z")}):
        (store,) = prepare(config(source, label_field="label", **settings), tokenizer, "train")
        assert capsys.readouterr().out.endswith("; left out 10 records that have no label\n")
        assert store.label_counts().tolist() == [10, 10, 10] and store.meta["documents"] == 30
    (store,) = prepare(config(source, label_field="label", labels=("-1", "0", "1", "2")), tokenizer, "train")
    assert "left out" not in capsys.readouterr().out and store.label_counts().tolist() == [10] * 4
    unlabeled = write(tmp_path / "b.jsonl", [record | {"label": -1} for record in records])
    with pytest.raises(ValueError, match="none of the 40 records of .*b.jsonl has a label; name other data"):
        prepare(config(unlabeled, label_field="label", labels=("x", "y")), tokenizer, "train")


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        ([["a"], "b"], {}, "record 2: label 'b' is not a list of classes"),
        (["a", ["b"]], {}, r"record 2: label \['b'\] is not a class"),
        ([["a"], ["a", None]], {}, "record 2: label None is not a class"),
        ([["a"], [["b"]]], {}, r"record 2: label \['b'\] is not a class"),
        ([["a"], ["b", "b"]], {}, "record 2: the labels .*name a class more than once"),
        ([[0, 1, 1], [1, 0, 2]], {}, "name a class more than once; name each once"),
        ([["a"], ["q"]], {"labels": ("a", "b")}, "record 2: label 'q' is not among the classes a, b"),
        ([["a"], {"b": 1}], {}, "record 2: label {'b': 1} is not a list"),
        ([["a"], None], {}, "record 2: label None is not a list"),
        ([[], []], {}, "the lists of labels hold nothing"),
        ([[0.5], [1]], {}, "the lists of labels hold fractional numbers"),
        ([["a"], ["b"]], {"balance": 1.0}, "the labels of .* are lists of classes; set it to 0"),
    ],
)
def test_hostile_lists_of_classes(tmp_path, tokenizer, labels, settings, message):
    source = write(tmp_path / "a.jsonl", [{"text": "alpha", "label": y} for y in labels])
    with pytest.raises(ValueError, match=message):
        prepare(config(source, label_field="label", **settings), tokenizer, "train")


SIZES = (600, 90, 7)
DIGESTS = np.random.default_rng(0).integers(0, 2**63, sum(SIZES)).tolist()  # the upper half is held out
EXAMPLES = [
    Example((f"text {i}", ""), label, 2 * digest)
    for i, (label, digest) in enumerate(zip(np.repeat([0, 1, 2], SIZES).tolist(), DIGESTS, strict=True))
]


@pytest.mark.parametrize("kept", [0, 7, 1000])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_classes_grow_towards_the_largest(power: float, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxencoder.text.rows._MAX_BUFFERED", kept)
    reads = []
    oversampled = list(oversample(lambda: reads.append(1) or iter(EXAMPLES), power))
    times = Counter(example.texts[0] for example in oversampled)
    for label, size in enumerate(SIZES):
        of_class = [times[example.texts[0]] for example in EXAMPLES if example.label == label]
        expected = (600 / size) ** power
        assert set(of_class) <= {int(expected), int(np.ceil(expected))}
        # Which examples have one more is by chance: 4 standard deviations of a binomial.
        part = expected - int(expected)
        assert abs(sum(of_class) - size * expected) <= 4 * (size * part * (1 - part)) ** 0.5 + 1e-6
    # One to count, one for each repetition until those that are still to be repeated are few.
    rounds = [1, *(int(np.ceil((600 / size) ** power)) for size in SIZES)]
    assert len(reads) == 1 + {0: rounds[3], 7: rounds[2], 1000: 1}[kept]
    assert oversampled[: len(EXAMPLES)] == EXAMPLES  # each once before any twice


def test_nothing_to_balance() -> None:
    assert list(oversample(lambda: iter(()), 1.0)) == []


def test_training_rows_are_balanced_and_validation_rows_are_not(tmp_path, tokenizer) -> None:
    records = [
        {"text": " ".join(np.random.default_rng(i).choice(WORDS, 3)), "label": "rare" if i % 10 == 0 else "common"}
        for i in range(200)
    ]
    data = config(write(tmp_path / "t.jsonl", records), label_field="label", validation_fraction=0.2)
    plain, even = (prepare(dataclasses.replace(data, balance=x), tokenizer, "train") for x in (0.0, 1.0))
    common, rare = plain[0].label_counts()
    times = common / rare
    assert even[0].label_counts()[0] == common and rare * int(times) <= even[0].label_counts()[1] <= rare * (times + 1)
    assert set(pieces(even)) == set(pieces(plain))
    held_out = [
        prepare(settings, tokenizer, "validation") for settings in (data, dataclasses.replace(data, balance=1.0))
    ]
    assert held_out[0][0].path == held_out[1][0].path and even[0].path != plain[0].path


def test_errors_of_balance(tmp_path, tokenizer) -> None:
    source = write(tmp_path / "t.jsonl", [{"text": "alpha", "label": 0.5}, {"text": "beta", "label": 1.5}])
    with pytest.raises(ValueError, match="balance is 1.0, but the labels of .* are values; set it to 0"):
        prepare(config(source, label_field="label", balance=1.0, validation_fraction=0.0), tokenizer, "train")
    with pytest.raises(ValueError, match="data.balance is 0.5; it needs data.label_field"):
        DataConfig(balance=0.5)
    with pytest.raises(ValueError, match="data.balance"):
        DataConfig(balance=1.5, label_field="label")
