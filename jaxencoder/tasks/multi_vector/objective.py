"""Multi-vector embeddings on packed rows: the vectors of a query's tokens are compared with those of documents.

Khattab and Zaharia 2020 (ColBERT), arXiv:2004.12832; distillation: Santhanam et al. 2022 (ColBERTv2),
arXiv:2112.01488.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Self, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.encoder import Encoder, init_params
from jaxencoder.model.multi_vector import (
    MultiVectorConfig,
    QueryExpansion,
    max_similarities,
    pair_max_similarities,
    token_vectors,
)
from jaxencoder.model.sentence import Dense
from jaxencoder.objectives.objective import Batch, Metrics, Objective, Params, Vocabulary, encode, mean
from jaxencoder.tasks.embeddings.accuracy import score_accuracy
from jaxencoder.tasks.embeddings.batch_objective import BatchObjective, check_label_field
from jaxencoder.tasks.embeddings.distillation import margin_mse, score_distillation
from jaxencoder.tasks.embeddings.duplicates import candidate_texts
from jaxencoder.tasks.embeddings.examples import take_from_rows, teacher_scores, text_mask
from jaxencoder.tasks.embeddings.parts import in_parts
from jaxencoder.tasks.embeddings.prompts import prompt_counter
from jaxencoder.tasks.embeddings.ranking import score_ranking
from jaxencoder.tasks.embeddings.vectors import Loss
from jaxencoder.tasks.multi_vector.token_vectors import with_hidden_tokens
from jaxencoder.tasks.task import Network, TrainingLabels
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

MultiVectorLoss = Literal["ranking", "margin_mse", "kl"]

NAME = "multi_vector"  # of the projection's parameters
_TAUGHT = ("margin_mse", "kl")
# Settings that only some losses use.
_USED_BY = {
    **dict.fromkeys(("scale", "mask_duplicates"), ("ranking",)),
    **dict.fromkeys(("student_temperature", "teacher_temperature"), ("kl",)),
}


class Texts(NamedTuple):
    """Texts as the vectors of their tokens."""

    vectors: jax.Array  # float32 [..., L, D]
    mask: jax.Array  # bool [..., L], False where there is no vector


@dataclass(frozen=True)
class MultiVectors(BatchObjective):
    """Settings of the training of multi-vector embeddings; ValueError if one lies outside its range.

    A model that gives a vector for each token, named by init_from, keeps its own settings but those of the loss.
    """

    loss: MultiVectorLoss = "ranking"
    """ranking: find the positive among the documents of the batch (InfoNCE, multiple negatives). margin_mse and kl need
    a teacher's scores of the query with each document in data.label_field, and learn their differences or their
    distribution."""
    dimensions: int = 128
    """Size of the vectors; 0 for that of the encoder, without a projection."""
    query_prompt: str = ""
    """Text before queries, such as "[unused0] ". A token of the vocabulary at its beginning counts as one token."""
    document_prompt: str = ""
    """Text before documents, such as "[unused1] "."""
    query_length: int = 32
    """Most tokens of a query, special tokens included."""
    document_length: int = 180
    """Most tokens of a document, special tokens included."""
    query_expansion: bool = False
    """Fill queries up to query_length with masks, whose vectors count like those of words."""
    attend_to_expansion: bool = False
    """Let tokens attend to these masks."""
    skipped_words: tuple[str, ...] = ()
    """Tokens that give no vector in documents, such as punctuation."""
    mean: bool = False
    """Divide similarities by the number of the query's vectors."""
    scale: float = 1.0
    """Factor of similarities in ranking, the inverse of a temperature."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least({"dimensions": 0, "query_length": 3, "document_length": 3})
        self.check_used([self.loss], _USED_BY)
        if not 0 < self.scale < np.inf:
            raise ValueError(f"objective.scale must be a positive number, got {self.scale}.")

    def multi_vector(self, encoder: EncoderConfig) -> MultiVectorConfig:
        """How a model that is trained with this objective gives vectors."""
        size, expansion = encoder.hidden_size, None
        if self.query_expansion:
            expansion = QueryExpansion(self.query_length, is_attended=self.attend_to_expansion)
        projection = Dense(size, self.dimensions, bias=False, activation="identity")
        return MultiVectorConfig(
            modules=(projection,) if self.dimensions else (),
            prompts=(("query", self.query_prompt), ("document", self.document_prompt)),
            query_length=0 if self.query_expansion else self.query_length,
            document_length=self.document_length,
            expansion=expansion,
            skipped_words=self.skipped_words,
            mean=self.mean,
        )

    @property
    def schema_settings(self) -> dict[str, Any]:
        """The arguments of a `MultiVectorSchema`."""
        names = ("loss", "query_prompt", "document_prompt", "query_length", "document_length")
        return {name: getattr(self, name) for name in names} | {"expands_queries": self.query_expansion}

    def with_special_tokens(self, tokenizer: Tokenizer) -> Tokenizer:
        return tokenizer.with_markers((self.query_prompt, self.document_prompt))

    def build(self, encoder: EncoderConfig, compute: ComputeConfig, vocabulary: Vocabulary) -> Objective:
        mask_id = vocabulary.mask_id if self.query_expansion and not self.attend_to_expansion else None
        init, vectors = self._network(encoder, compute, mask_id)
        ids = [vocabulary.token_id(word) for word in self.skipped_words]
        skipped = tuple(i for i in ids if i is not None)
        prompts = self.query_prompt, self.document_prompt
        with_counts = prompt_counter(cast(Tokenizer, vocabulary), [prompts], True) if any(prompts) else None

        def loss(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
            compared = batch if with_counts is None else with_counts(batch)
            metrics = self._metrics(vectors(params, batch, key, train), compared, skipped)
            return mean(metrics), metrics

        return Objective(init, loss, vectors)

    def _network(self, encoder: EncoderConfig, compute: ComputeConfig, mask_id: int | None) -> Network:
        """Scores are the vectors [B, T, D] float32 of all tokens. No token attends to masks that fill up queries."""
        module, settings = Encoder(encoder, compute, long_rows=True), self.multi_vector(encoder)

        def init(key: jax.Array) -> Params:
            key, projection_key = jax.random.split(key)
            params = init_params(key[None], module, {})
            shapes = {str(i): layer.shapes() for i, layer in enumerate(settings.modules)}
            if not shapes:
                return params
            normal = partial(jax.random.normal, projection_key, dtype=jnp.float32)
            layers = jax.tree.map(lambda shape: normal(shape) * encoder.initializer_std, shapes, is_leaf=_is_shape)
            return params | {NAME: layers}

        def embed(params: Params, batch: Batch, key: jax.Array, train: bool) -> jax.Array:
            rows = batch if mask_id is None else with_hidden_tokens(batch, mask_id)
            hidden = encode(module, params["encoder"], rows, key, train)
            return token_vectors(settings, params.get(NAME, {}), hidden)

        return init, in_parts(embed, self.parts)

    def _metrics(self, vectors: jax.Array, batch: Batch, skipped: tuple[int, ...]) -> Metrics:
        """Loss and accuracy: the queries whose positive is more similar than any other document.

        With a teacher's scores only the query's other documents are compared, else those of the batch.
        """
        mask = text_mask(batch)
        query_length = min(self.query_length, vectors.shape[1])
        queries = texts_of(vectors, batch, batch["tuples"][..., :1], query_length)
        queries = Texts(queries.vectors[:, 0], queries.mask[:, 0])
        document_length = min(self.document_length, vectors.shape[1])
        documents = texts_of(vectors, batch, batch["tuples"][..., 1:], document_length, skipped)
        if self.loss in _TAUGHT:
            scores = pair_max_similarities(*queries, *documents, mean=self.mean)  # [N, C - 1]
            value = self._distillation(scores, mask, teacher_scores(batch))
            # A query is compared with the documents of a single example, its own.
            return {"loss": value, "accuracy": score_accuracy(scores[:, None], mask, jnp.zeros(len(mask), jnp.int32))}
        flat = (x.reshape(-1, *x.shape[2:]) for x in documents)
        scores = max_similarities(*queries, *flat, mean=self.mean).reshape(len(mask), *documents.mask.shape[:2])
        texts = self.texts(batch)
        value = score_ranking(scores, texts, scale=self.scale)
        candidates = candidate_texts(texts, texts, jnp.eye(len(mask), dtype=bool))
        scores = jnp.where(candidates[..., 1:], scores, -jnp.inf)
        return {"loss": value, "accuracy": score_accuracy(scores, mask, jnp.arange(len(mask)))}

    def _distillation(self, scores: jax.Array, mask: jax.Array, teacher: jax.Array) -> Loss:
        """The loss by a teacher's scores [N, C - 1], of `scores` of the same texts and `mask` [N, C]."""
        if self.loss == "margin_mse":
            return margin_mse(scores, mask, teacher)
        temperatures = {
            "student_temperature": self.student_temperature,
            "teacher_temperature": self.teacher_temperature,
        }
        return score_distillation(scores, mask, teacher, **temperatures)

    def started_from_tokens(self, model: MultiVectorConfig | None) -> Self:
        """The objective with the settings of a model that gives a vector for each token, where training starts."""
        if model is None:
            return self
        projections = [layer for layer in model.modules if isinstance(layer, Dense)]
        is_plain = all(not x.bias and x.activation == "identity" and not x.residual for x in projections)
        if len(model.modules) > 1 or len(projections) < len(model.modules) or not is_plain:
            kinds = ", ".join(type(layer).__name__ for layer in model.modules)
            raise ValueError(f"init_from has the modules {kinds} of tokens; only one Dense without a bias is trained.")
        expansion = model.expansion
        if expansion is not None and (not expansion.truncates or expansion.token):
            raise ValueError("init_from expands queries without a fixed length, or by a token that is not the mask.")
        other = {"normalize": True, "skipped_roles": ("document",), "skips_first": False, "pooling": None}
        if different := [name for name, value in other.items() if getattr(model, name) != value]:
            raise ValueError(f"init_from has {different[0]} {getattr(model, different[0])}, which is not trained here.")
        return dataclasses.replace(
            self,
            dimensions=projections[0].outputs if projections else 0,
            query_prompt=model.prompt("query"),
            document_prompt=model.prompt("document"),
            query_length=expansion.length if expansion else model.query_length or self.query_length,
            document_length=model.document_length or self.document_length,
            query_expansion=expansion is not None,
            attend_to_expansion=expansion is not None and expansion.is_attended,
            skipped_words=model.skipped_words,
            mean=model.mean,
        )

    def with_labels(self, labels: TrainingLabels) -> Self:
        check_label_field(self.loss, labels.field, "a teacher's scores" if self.loss in _TAUGHT else "")
        return self


def texts_of(
    vectors: jax.Array, batch: Batch, segments: jax.Array, length: int, skipped: tuple[int, ...] = ()
) -> Texts:
    """The texts [N, C] of a batch, each as the vectors of its first `length` tokens: `Texts` [N, C, L, D].

    Args:
        vectors: [B, T, D] of all tokens.
        segments: int [B, G, C], numbers of the texts in their row from 0, -1 for none; N is B * G.
        skipped: ids of tokens without a vector.
    """
    is_of_text = batch["segment_ids"][:, None, None] == segments[..., None] + 1  # [B, G, C, T]
    start, count = is_of_text.argmax(-1), is_of_text.sum(-1)
    positions = start[..., None] + jnp.arange(length)  # [B, G, C, L]
    is_token = (jnp.arange(length) < count[..., None]) & (segments[..., None] >= 0)
    positions = jnp.where(is_token, positions, 0)
    if skipped:
        ids = take_from_rows(batch["token_ids"], positions)
        is_token &= ~jnp.isin(ids, jnp.array(skipped))
    chosen = take_from_rows(vectors, positions)  # [B, G, C, L, D]
    return Texts(chosen.reshape(-1, *chosen.shape[2:]), is_token.reshape(-1, *is_token.shape[2:]))


def _is_shape(x: object) -> bool:
    """Whether a part of a tree of shapes is one of them."""
    return isinstance(x, tuple)
