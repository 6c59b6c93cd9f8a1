"""Records as queries and documents, each with its own length."""

from dataclasses import replace

import pytest

from jaxencoder.tasks.multi_vector.data import MultiVectorSchema
from jaxencoder.text.config import DataConfig, TokenizerConfig
from jaxencoder.text.schema import Example
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.tokenizers.training import train_tokenizer

DATA = DataConfig(row_length=16, text_field="query", pair_field="document")
SHORT, LONG = ("cat", ["rome bread paris cat " * 5]), ("paris cat rome bread cat rome", ["bread"])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["cat rome bread paris"] * 5, TokenizerConfig(vocab_size=80))


def lengths(schema, tokenizer, *texts, data=DATA) -> list[list[int]]:
    """The lengths of the query and of the documents of each record."""
    pieces = schema.encode(tokenizer, [Example(pair, [0.0] * 2, 0) for pair in texts], data, False)
    sizes = iter(pieces.lengths.tolist())
    return [[next(sizes), next(sizes)] for _ in texts]


def test_a_document_has_the_room_that_its_own_query_leaves(tokenizer) -> None:
    schema = MultiVectorSchema(query_length=12)
    ((query, document),) = alone = lengths(schema, tokenizer, SHORT)
    assert query + document == 16
    assert lengths(schema, tokenizer, SHORT, LONG)[:1] == alone


def test_expanded_queries_have_one_length(tokenizer) -> None:
    schema = MultiVectorSchema(query_length=8, expands_queries=True)
    assert [query for query, _ in lengths(schema, tokenizer, SHORT, LONG)] == [8, 8]
    with pytest.raises(ValueError, match="data.row_length is 16, but queries have up to 16 tokens; make it longer"):
        lengths(MultiVectorSchema(query_length=16, expands_queries=True), tokenizer, SHORT)


def test_texts_are_shorter_than_a_row(tokenizer) -> None:
    data = replace(DATA, text_length=9)
    ((_, document),) = lengths(MultiVectorSchema(query_length=6), tokenizer, SHORT, data=data)
    assert document == 9
    with pytest.raises(ValueError, match="data.text_length is 9, but queries have up to 12 tokens; make it longer"):
        lengths(MultiVectorSchema(query_length=12), tokenizer, SHORT, data=data)
