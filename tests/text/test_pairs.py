"""Labels of pairs are correct and balanced, and no part of a document is left out."""

import dataclasses
import json
import math

import numpy as np
import pytest

from jaxencoder.text import rows
from jaxencoder.text.cache import prepare
from jaxencoder.text.config import ALIGNED, DataConfig
from jaxencoder.text.pairs import sentence_pairs
from jaxencoder.text.schema import Example
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = 40_000


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    """Each word w0, w1, ... is one token, and so is the full stop."""
    path = tmp_path_factory.mktemp("words") / "vocab.txt"
    path.write_text("\n".join([*SPECIAL, ".", *(f"w{i}" for i in range(WORDS))]) + "\n")
    return Tokenizer.load(path)


def documents(count: int, seed: int = 0, sentences: tuple[int, int] = (1, 15), words: tuple[int, int] = (1, 15)):
    """Documents without a repeated word, so that a token identifies its position."""
    random, word, texts = np.random.default_rng(seed), iter(range(WORDS)), []
    for _ in range(count):
        lengths = random.integers(*words, random.integers(*sentences))
        texts.append(" ".join(" ".join(f"W{next(word)}" for _ in range(n)) + "." for n in lengths))
    return texts


def made(tokenizer: Tokenizer, texts: list[str], row_length: int = 32, kind: str = "sop", short: float = 0.1):
    """Make [(a, b or None, label)] with lists of ids, and check the special tokens and type ids."""
    pieces, pair_list, start = sentence_pairs(tokenizer, texts, row_length, kind, short), [], 0
    assert len(pieces.ids) == len(pieces.type_ids) == pieces.lengths.sum()
    for length, label in zip(pieces.lengths.tolist(), pieces.labels, strict=True):
        ids = pieces.ids[start : start + length].tolist()
        types = pieces.type_ids[start : start + length].tolist()
        start += length
        assert length <= row_length and ids[0] == tokenizer.cls_id and ids[-1] == tokenizer.sep_id
        if label < 0:
            assert length == 3 and not any(types)
            pair_list.append(([ids[1]], None, label))
        else:
            middle = ids.index(tokenizer.sep_id)
            assert types == [0] * (middle + 1) + [1] * (length - middle - 1)
            pair_list.append((ids[1:middle], ids[middle + 1 : -1], label))
            assert all(pair_list[-1][:2])
    return pair_list


def places(tokenizer: Tokenizer, texts: list[str]):
    """Map the id of each word to (document, position in it)."""
    where = {}
    for number, text in enumerate(texts):
        for place, index in enumerate(tokenizer.encode_ids([text])[0].tolist()):
            if tokenizer.token(index) != ".":
                where[index] = (number, place)
    return where


def span(ids: list[int], where: dict) -> tuple[int, int, int]:
    """(document, start, end) of consecutive ids of a text."""
    origins = [(where[index], i) for i, index in enumerate(ids) if index in where]
    if not origins:
        return (-1, 0, 1)  # a full stop alone
    assert len({(document, place - i) for (document, place), i in origins}) == 1
    (document, place), i = origins[0]
    return document, place - i, place - i + len(ids)


def assert_share(count: int, of: int, probability: float) -> None:
    """Within 4 standard deviations of a binomial distribution."""
    assert abs(count - of * probability) < 4 * math.sqrt(of * probability * (1 - probability))


@pytest.mark.parametrize("kind", ["nsp", "sop"])
@pytest.mark.parametrize("row_length", [8, 32, 4096])
def test_labels_are_correct_and_no_token_is_missing(tokenizer: Tokenizer, kind: str, row_length: int) -> None:
    texts = documents(300)
    where = places(tokenizer, texts)
    lengths = tokenizer.encode_ids(texts)[1]
    covered = [np.zeros(length, int) for length in lengths]
    pair_list = made(tokenizer, texts, row_length, kind)
    for a, b, label in pair_list:
        complete = len(a) + len(b or ()) + 3 < row_length
        document, start, end = span(a, where)
        if label == 1 and kind == "sop":
            (document, start, end), (other, middle, last) = span(b, where), span(a, where)
        else:
            other, middle, last = span(b, where) if b else (document, end, end)
        if label == 1 and kind == "nsp":
            assert other != document or -1 in (document, other)
        elif -1 not in (document, other):
            assert document == other and (middle == end if complete else middle >= end)
            end = last
        if document >= 0:
            covered[document][start:end] += 1
    if row_length == 4096:  # nothing is truncated: every token is there, and once, full stops standing alone aside
        ends = [(text == 0).sum() for text in covered]
        assert sum(ends) <= sum(1 for a, b, _ in pair_list if span(a, where)[0] < 0 or (b and span(b, where)[0] < 0))
        assert max(map(max, covered)) == 1
    labels = [label for *_, label in pair_list if label >= 0]
    assert len(labels) >= 0.9 * len(texts)
    assert_share(sum(labels), len(labels), 0.5)


@pytest.mark.parametrize("kind", ["nsp", "sop"])
def test_no_sentence_is_skipped(tokenizer: Tokenizer, kind: str) -> None:
    """Each pair begins where the one before ended, except for tokens truncated from pairs that fill a row."""
    texts = documents(40, sentences=(20, 30))
    where = places(tokenizer, texts)
    gaps, kept, before = {True: [], False: []}, 0, (-1, 0, False)
    for a, b, label in made(tokenizer, texts, 64, kind):
        full = len(a) + len(b or ()) + 3 == 64
        parts = [span(part, where) for part in (a, *([b] if b and (kind == "sop" or label == 0) else []))]
        parts = [part for part in parts if part[0] >= 0]
        if parts:
            document, start, end = parts[0][0], min(part[1] for part in parts), max(part[2] for part in parts)
            if document == before[0]:
                gaps[full or before[2]].append(start - before[1])
            kept, before = kept + sum(part[2] - part[1] for part in parts), (document, end, full)
    assert set(gaps[False]) == {0} and min(gaps[True]) >= 0 and max(gaps[True]) < 60
    assert 0.8 < kept / tokenizer.encode_ids(texts)[1].sum() < 1


@pytest.mark.parametrize("kind", ["nsp", "sop"])
def test_labels_are_balanced_for_single_sentences(tokenizer: Tokenizer, kind: str) -> None:
    """A wrong second text begins within a sentence as a right one does, or its first token would reveal it."""
    texts = documents(1500, sentences=(1, 2), words=(4, 15))
    where = places(tokenizer, texts)
    pair_list = [pair for pair in made(tokenizer, texts, 64, kind) if pair[1]]
    labels = [label for *_, label in pair_list]
    assert_share(sum(labels), len(labels), 0.5)
    if kind == "nsp":
        starts = [[span(b, where)[1] > 0 for _, b, label in pair_list if label == k and len(b) > 1] for k in (0, 1)]
        assert all(starts[0]) and all(starts[1])


@pytest.mark.parametrize("short", [0.0, 0.1, 0.6, 1.0])
def test_short_pairs(tokenizer: Tokenizer, short: float) -> None:
    texts = documents(20, sentences=(100, 101), words=(2, 8))
    where = places(tokenizer, texts)
    pair_list = made(tokenizer, texts, 128, "sop", short)
    documents_of = [span(a, where)[0] for a, *_ in pair_list]
    lengths = [len(a) + len(b or ()) for a, b, _ in pair_list]
    # The last pair of a document is shorter anyhow.
    neighbors = zip(lengths, documents_of, documents_of[1:], strict=False)
    inner = [n for n, this, following in neighbors if this == following]
    cut = sum(n < 125 for n in inner)
    # A short target is met by whole sentences: a few tokens more, and so sometimes a whole row.
    assert short * 0.85 * len(inner) - 4 * math.sqrt(len(inner)) * (short > 0) <= cut
    assert cut <= short * len(inner) + 4 * math.sqrt(len(inner) * short * (1 - short))
    if short == 1:
        assert min(inner) < 20 and 45 < np.mean(inner) < 85


def test_pairs_depend_on_the_text_only(tokenizer: Tokenizer) -> None:
    texts = documents(30)
    once = made(tokenizer, texts)
    assert once == made(tokenizer, texts)
    assert made(tokenizer, texts[20:]) + made(tokenizer, texts[:20]) == [
        pair for number in (*range(20, 30), *range(20)) for pair in made(tokenizer, [texts[number]])
    ]
    assert sum(pair in once for pair in made(tokenizer, [f"{text} w39999." for text in texts])) < len(once) / 2


def test_roberta_has_two_separators(shared_data) -> None:
    tokenizer = Tokenizer.load(shared_data / "tokenizers" / "roberta-base")
    pieces = sentence_pairs(tokenizer, ["One sentence. Another one."], 16, "sop", 0.0)
    sep = np.flatnonzero(pieces.ids == tokenizer.sep_id).tolist()
    assert pieces.ids[0] == tokenizer.cls_id and sep == [sep[0], sep[0] + 1, len(pieces.ids) - 1]
    assert pieces.type_ids.tolist() == [int(i > sep[1]) for i in range(len(pieces.ids))]
    texts = {"One sentence.", " Another one."}
    assert {tokenizer.decode(pieces.ids[1 : sep[0]]), tokenizer.decode(pieces.ids[sep[1] + 1 : -1])} == texts


@pytest.mark.parametrize(
    "language", ["arb", "deu", "eng", "fra", "hin", "jpn", "kor", "rus", "spa", "swa", "tha", "zho-TW"]
)
def test_pairs_of_many_languages(language: str, shared_data) -> None:
    tokenizer = Tokenizer.load(shared_data / "tokenizers" / "bert-base-multilingual-cased")
    lines = (shared_data / "parallel" / "ntrex" / f"{language}.txt").read_text(encoding="utf-8").splitlines()
    space = "" if language in ("jpn", "zho-TW") else " "
    texts = [space.join(lines[start : start + 20]) for start in range(0, 800, 20)]
    ids, lengths = tokenizer.encode_ids(texts)
    held = [f" {' '.join(map(str, part.tolist()))} " for part in np.split(ids, np.cumsum(lengths)[:-1])]
    pair_list = made(tokenizer, texts, 128, "sop", 0.1)
    for a, b, label in pair_list:
        one, two = (f" {' '.join(map(str, part))} " for part in ((b, a) if label == 1 else (a, b or a)))
        assert any(one in text and two in text and (text.find(one) < text.rfind(two) or not b) for text in held)
    kept = sum(len(a) + len(b or ()) for a, b, _ in pair_list)
    assert 0.8 * len(ids) < kept <= len(ids)
    assert_share(sum(label == 1 for *_, label in pair_list), sum(label >= 0 for *_, label in pair_list), 0.5)


@pytest.mark.parametrize("kind", ["nsp", "sop"])
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        (" \n\u200b", 0),
        ("w1", 1),
        ("w1.", 2),
        ("w1 w2 w3", 3),
        (" ".join(f"w{i}" for i in range(1000)), 1000),
        ("w1\0\x1b w2.\x07 \x85w3\u2028w4", 5),
    ],
)
def test_hostile_documents(tokenizer: Tokenizer, kind: str, text: str, tokens: int) -> None:
    more_texts = documents(2, seed=1) if kind == "nsp" else []
    pair_list = made(tokenizer, [text, *more_texts], 32, kind, 0.0)
    single = made(tokenizer, [text], 32, "sop", 0.0)
    assert sum(len(a) + len(b or ()) for a, b, _ in single) == tokens
    assert [label for *_, label in single] == [-1] if tokens == 1 else all(label >= 0 for *_, label in single)
    assert len(pair_list) >= len(single)


def test_no_other_document(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="only one document holds text; give more .*, or set data.pairs to sop"):
        sentence_pairs(tokenizer, ["", "w1 w2. w3."], 32, "nsp", 0.1)
    assert len(sentence_pairs(tokenizer, ["", " "], 32, "nsp", 0.1).lengths) == 0


# Rows


def config(path, **changes) -> DataConfig:
    settings = {"row_length": 32, "workers": 1, "validation_fraction": 0.0, "pairs": "nsp"} | changes
    return DataConfig(train=(str(path),), **settings)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents(200)))
    return path


def content(data: DataConfig, tokenizer: Tokenizer, split: str = "train"):
    store = prepare(data, tokenizer, split, progress=False)[0]
    return store, store.read(np.arange(len(store)))


@pytest.mark.parametrize("kind", ["nsp", "sop"])
def test_rows_of_pairs(source, tokenizer: Tokenizer, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(rows, "_TASK_DOCUMENTS", 40)
    store, packed = content(config(source, pairs=kind), tokenizer)
    _, again = content(config(source, pairs=kind, workers=2, cache=str(tmp_path)), tokenizer)
    assert all(np.array_equal(packed[name], again[name]) for name in packed)
    assert store.meta["label_kind"] == "class" and store.meta["documents"] == 200
    assert store.meta["labels"] == (["next", "other"] if kind == "nsp" else ["ordered", "swapped"])
    assert 1 < packed["labels"].shape[1] == packed["segment_ids"].max()
    for r in range(len(store)):
        for segment, label in enumerate(packed["labels"][r], 1):
            inside = packed["segment_ids"][r] == segment
            seps = (packed["token_ids"][r][inside] == tokenizer.sep_id).sum()
            types = packed["token_type_ids"][r][inside]
            assert (seps, bool(types.any())) == ({-1: 1 if inside.any() else 0}.get(label, 2), label >= 0)
    _, unpacked = content(config(source, pairs=kind, packing=False), tokenizer)
    for label in (0, 1):
        assert (unpacked["labels"] == label).sum() == (packed["labels"] == label).sum() > 100


def test_settings_are_part_of_the_cache_key(source, tokenizer: Tokenizer) -> None:
    base = config(source)
    changes = [{}, {"pairs": "sop"}, {"pairs": "none"}, {"short_pair_probability": 0.2}]
    paths = {content(dataclasses.replace(base, **change), tokenizer)[0].path for change in changes}
    assert len(paths) == 4


def test_held_out_documents_are_in_no_training_pair(source, tokenizer: Tokenizer) -> None:
    data = config(source, validation_fraction=0.2)
    held, train = (content(data, tokenizer, split)[1] for split in ("validation", "train"))
    words = [set(part["token_ids"].ravel()) - set(range(6)) for part in (held, train)]
    assert all(words) and not words[0] & words[1]


@pytest.mark.parametrize(("count", "want"), [(0, []), (3, [3]), (9, [9]), (22, [8, 14]), (24, [8, 8, 8])])
def test_tasks_have_enough_documents(count: int, want: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_TASK_CHARACTERS", 10)
    examples = [Example(("a long document", ""), 0, 0)] * count
    assert [len(batch) for batch in rows._batches(iter(examples), 8)] == want
    assert len(list(rows._batches(iter(examples), 1))) == count


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs": "mlm"}, "data.pairs is 'mlm'; give one of none, nsp, sop"),
        ({"pairs": "sop", "short_pair_probability": 1.5}, "short_pair_probability is 1.5; give a number from 0.0"),
        ({"pairs": "sop", "row_length": 7}, "data.row_length is 7; give a whole number of at least 8"),
        ({"pairs": "sop", "label_field": "label"}, "makes pairs out of documents; leave out label_field"),
        ({"pairs": "nsp", "pair_field": "b"}, "makes pairs out of documents; leave out pair_field"),
        ({"pairs": "nsp", "validation": (f"{ALIGNED}a|b",)}, "makes pairs out of documents; leave out aligned:a|b"),
    ],
)
def test_contradicting_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        DataConfig(**settings)
