"""Records of queries and documents whose tokens are compared: fields and labels as for embeddings of texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxencoder.tasks.embeddings.data import EmbeddingSchema
from jaxencoder.tasks.embeddings.schemas import schema_for
from jaxencoder.text.config import DataConfig
from jaxencoder.text.labels import Labels
from jaxencoder.text.pieces import Pieces, grouped
from jaxencoder.text.schema import Example
from jaxencoder.text.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class MultiVectorSchema(EmbeddingSchema):
    """The first text of a record is a query, which may be filled up by masks; the others are documents."""

    loss: str = "ranking"
    query_prompt: str = ""
    document_prompt: str = ""
    query_length: int = 32  # tokens
    document_length: int = 180
    expands_queries: bool = False

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]  # part of the address of rows
        settings = (self.query_prompt, self.document_prompt, self.query_length, self.document_length)
        return f"{schema_for(self.loss).name} of queries and documents {(*settings, self.expands_queries)}"

    @property
    def label_names(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return schema_for(self.loss).label_names

    def encode_label(self, label: Any, texts: tuple[str, list[str]], labels: Labels, where: str) -> list[float]:
        return schema_for(self.loss).encode_label(label, texts, labels, where)

    def encode(self, tokenizer: Tokenizer, examples: list[Example], data: DataConfig, has_pairs: bool) -> Pieces:
        if data.row_length <= self.query_length or data.text_limit < self.query_length:
            name = "row_length" if data.row_length <= self.query_length else "text_length"
            problem = f"data.{name} is {getattr(data, name)}, but queries have up to {self.query_length} tokens"
            raise ValueError(f"{problem}; make it longer, or set objective.query_length")
        queries = self.query_ids(tokenizer, [example.texts[0] for example in examples])
        documents = [[self.document_prompt + text for text in example.texts[1]] for example in examples]
        rooms = [data.row_length - len(query) for query in queries]
        sizes = [len(texts) for texts in documents]
        flat_texts = [text for texts in documents for text in texts]
        limit = min(self.document_length, data.text_limit)
        groups, _ = grouped(tokenizer, flat_texts, None, sizes, rooms, limit)
        ids = [
            piece
            for query, group in zip(queries, groups, strict=True)
            for piece in (query, *(encoding.ids for encoding in group))
        ]
        labels = [(i, label) for example in examples for i, label in enumerate(example.label)]
        return Pieces.of(tokenizer, ids, labels=labels, groups=[1 + size for size in sizes])

    def query_ids(self, tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids int32 [n] of queries, with their prompt and masks."""
        prompted = [self.query_prompt + text for text in texts]
        encoded = tokenizer.encode_batch(prompted, max_length=self.query_length)
        if not self.expands_queries:
            return [encoding.ids for encoding in encoded]
        masks = np.full(self.query_length, tokenizer.mask_id, np.int32)
        return [np.concatenate([encoding.ids, masks[len(encoding.ids) :]]) for encoding in encoded]
