"""Groups of texts that share a row."""

import pytest

from jaxencoder.text.pieces import _shared_limit, grouped


def test_shares():
    assert _shared_limit([9, 9, 2], 14) == 6 and _shared_limit([5, 5], 9) == 4 and _shared_limit([1, 2, 30], 20) == 17


def test_single_texts_in_groups(tokenizer):
    texts = ["alpha beta gamma delta " * 4, "alpha", "beta", "gamma"]
    encoded = [len(x.ids) for x in tokenizer.encode_batch(texts)]
    (first, second), truncated = grouped(tokenizer, texts, None, [3, 1], 12)
    assert [len(x.ids) for x in first] == [12 - sum(encoded[1:3]), *encoded[1:3]] and truncated == 1
    assert [len(x.ids) for x in second] == encoded[3:]
    assert grouped(tokenizer, [], None, [], 12) == ([], 0)
    with pytest.raises(ValueError, match="rows of 8 tokens have no room for 4 texts"):
        grouped(tokenizer, texts, None, [4], 8)
