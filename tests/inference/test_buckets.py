import logging

import numpy as np
import pytest

from jaxencoder.inference.buckets import batch, bucket_lengths, plan, tokenize, warn_of_cuts


@pytest.mark.parametrize("longest", [3, 15, 16, 17, 20, 64, 128, 512, 513, 8192])
def test_buckets_are_few_and_reach_the_longest(longest):
    lengths = bucket_lengths(longest)
    assert lengths[-1] == longest and len(lengths) <= 8
    assert list(lengths) == sorted(set(lengths))


@pytest.mark.parametrize("number", [0, 1, 7, 500])
@pytest.mark.parametrize("batch_tokens", [1, 64, 1000, 8192])
def test_every_text_once_in_a_batch_that_holds_it(number, batch_tokens):
    lengths = np.random.default_rng(number).integers(2, 129, number)
    buckets = bucket_lengths(128)
    plans = list(plan(lengths, buckets, batch_tokens))
    assert sorted(i for part in plans for i in part.texts) == list(range(number))
    for part in plans:
        assert len(part.texts) <= part.rows and part.length in buckets
        assert lengths[part.texts].max() <= part.length
        assert part.rows == 1 or part.rows * part.length <= batch_tokens
    shapes = {(part.rows, part.length) for part in plans}
    assert len(shapes) <= len(buckets) + 1


def test_little_is_padding():
    lengths = np.random.default_rng(0).lognormal(3.3, 0.6, 20_000).astype(int).clip(2, 512)  # sentences
    computed = sum(part.rows * part.length for part in plan(lengths, bucket_lengths(512), 8192))
    assert lengths.sum() / computed > 0.75


def test_one_text_is_one_row():
    assert [(p.rows, p.length) for p in plan([5], bucket_lengths(512), 8192)] == [(1, 16)]


def test_batch_is_the_documented_one():
    rows = batch([np.array([2, 7, 3]), np.array([2, 3])], 3, 4, pad_id=9)
    assert rows["token_ids"].tolist() == [[2, 7, 3, 9], [2, 3, 9, 9], [9, 9, 9, 9]]
    assert rows["segment_ids"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert rows["positions"].tolist() == [[0, 1, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert {x.dtype for x in rows.values()} == {np.dtype("int32")}


@pytest.mark.parametrize("length", [3, 9, 10, 11])
def test_long_texts_are_cut_with_one_warning(tokenizer, caplog, length):
    texts = ["the cat sat on a mat while", "the", "", "the cat sat on a mat while seven"]
    whole = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    assert [len(ids) for ids in whole] == [9, 3, 2, 10]
    ids, number = tokenize(tokenizer, texts, length)
    with caplog.at_level(logging.WARNING):
        warn_of_cuts(number, len(ids), length)
    for found, all_of_it in zip(ids, whole, strict=True):
        expected = all_of_it if len(all_of_it) <= length else [*all_of_it[: length - 1], tokenizer.sep_id]
        assert found.tolist() == list(expected)
    cut = sum(len(x) > length for x in whole)
    assert [record.args for record in caplog.records] == ([(cut, 4, length)] if cut else [])
