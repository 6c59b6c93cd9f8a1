import logging

import numpy as np
import pytest

from jaxencoder.text.buckets import (
    BatchPlan,
    batch,
    batch_shapes,
    max_texts_per_row,
    plan,
    prompt_tokens,
    row_lengths,
    shared_tokens,
    tokenize,
    warn_truncated,
)
from jaxencoder.text.config import TokenizerConfig
from jaxencoder.text.tokenizers.training import train_tokenizer


@pytest.mark.parametrize("longest", [3, 31, 32, 33, 64, 128, 500, 513, 8192])
def test_row_lengths_are_few_and_reach_the_longest(longest):
    lengths = row_lengths(longest)
    assert lengths[-1] == longest and len(lengths) <= 9
    assert list(lengths) == sorted(set(lengths))


def laid_out(lengths, parts) -> None:
    """Every text lies once, in a row that holds it, beside no more others than there are places."""
    found = []
    for part in parts:
        used = np.zeros((part.rows, part.length), bool)
        for text, row, place, start in zip(part.texts, part.row, part.segment, part.start, strict=True):
            cells = used[row, start : start + lengths[text]]
            assert len(cells) == lengths[text] and not cells.any() and place < max_texts_per_row(part.length)
            cells[:] = True
            found.append(text)
        assert len({*zip(part.row.tolist(), part.segment.tolist(), strict=True)}) == len(part.texts)
    assert sorted(found) == list(range(len(lengths)))


@pytest.mark.parametrize("number", [0, 1, 7, 500])
@pytest.mark.parametrize("batch_tokens", [1, 64, 1000, 8192])
def test_every_text_once_in_a_row_that_holds_it(number, batch_tokens):
    lengths = np.random.default_rng(number).integers(2, 129, number).tolist()
    possible = row_lengths(128)
    parts = list(plan(lengths, possible, batch_tokens))
    laid_out(lengths, parts)
    assert all(part.length in possible for part in parts)
    assert all(part.rows == 1 or part.rows * part.length <= batch_tokens for part in parts)
    assert [part.length for part in parts] == sorted((part.length for part in parts), reverse=True)
    shapes = {(part.rows, part.length) for part in parts}
    assert len(shapes) <= 2 * len(possible)


@pytest.mark.parametrize("lengths", [[2] * 40, [0, 0, 3], [32] * 5, [33, 31, 31, 2]])
def test_texts_of_strange_lengths(lengths):
    laid_out(lengths, plan(lengths, row_lengths(64), 128))


@pytest.mark.parametrize("typical", [12, 27, 90])
def test_little_is_padding(typical):
    lengths = np.random.default_rng(0).lognormal(np.log(typical), 0.6, 20_000).astype(int).clip(2, 512).tolist()
    computed = sum(part.rows * part.length for part in plan(lengths, row_lengths(512), 2048))
    assert sum(lengths) / computed > 0.94


def test_one_text_is_one_row():
    assert [(p.rows, p.length) for p in plan([5], row_lengths(512), 8192)] == [(1, 32)]


def test_batch_is_the_documented_one():
    where = (np.array(x) for x in ([0, 1, 2], [0, 0, 1], [0, 1, 0], [0, 3, 0]))
    rows = batch([np.array([2, 7, 3]), np.array([2, 3]), np.array([2, 8, 9, 3])], BatchPlan(*where, 2, 6), pad_id=0)
    assert rows["token_ids"].tolist() == [[2, 7, 3, 2, 3, 0], [2, 8, 9, 3, 0, 0]]
    assert rows["segment_ids"].tolist() == [[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0]]
    assert rows["positions"].tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 0]]
    assert {x.dtype for x in rows.values()} == {np.dtype("int32")}


@pytest.mark.parametrize("length", [3, 9, 10, 11])
def test_long_texts_are_cut_with_one_warning(tokenizer, caplog, length):
    texts = ["the cat sat on a mat while", "the", "", "the cat sat on a mat while seven"]
    whole = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    assert [len(ids) for ids in whole] == [9, 3, 2, 10]
    ids, number = tokenize(tokenizer, texts, length)
    with caplog.at_level(logging.WARNING):
        warn_truncated(number, len(ids), length)
    for found, all_of_it in zip(ids, whole, strict=True):
        expected = all_of_it if len(all_of_it) <= length else [*all_of_it[: length - 1], tokenizer.sep_id]
        assert found.tolist() == list(expected)
    cut = sum(len(x) > length for x in whole)
    assert [record.args for record in caplog.records] == ([(cut, 4, "texts", length)] if cut else [])


@pytest.mark.parametrize(("kind", "joined"), [("bpe", 1), ("wordpiece", 0)])
def test_a_space_at_the_end_of_a_prompt(kind, joined) -> None:
    """It joins the first word in byte-level BPE, and is no token that all texts share."""
    texts = ["query: who is the king", "query: what is the king"]
    tokenizer = train_tokenizer(texts * 5, TokenizerConfig(kind=kind, vocab_size=320))
    count = shared_tokens(tokenizer, "query: ")
    assert count == prompt_tokens(tokenizer, "query: ") - joined
    first, second = (encoding.ids.tolist()[count:] for encoding in tokenizer.encode_batch(texts))
    assert first[0] != second[0] and first[-4:] == second[-4:]
    assert shared_tokens(tokenizer, "") == 1  # [CLS]


@pytest.mark.parametrize("step", [2, 4])
def test_batch_shapes_are_those_of_plans(step):
    lengths, seen = row_lengths(100), set()
    for number in range(1, 60):
        for length in (3, 33, 65, 100):
            seen |= {(p.rows, p.length) for p in plan([length] * number, lengths, 700, step)}
    shapes = batch_shapes(lengths, 700, step)
    assert seen == set(shapes) and len(shapes) == len(seen)
