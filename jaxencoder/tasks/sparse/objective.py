"""Sparse embeddings on packed rows: as `Embeddings`, of vectors over the vocabulary that regularizers keep sparse.

Formal et al. 2021 (SPLADE v2), arXiv:2109.10086.
"""

import dataclasses
import logging
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import jax
import jax.numpy as jnp

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.encoder import Encoder, init_params
from jaxencoder.model.flops import training_flops
from jaxencoder.model.heads import MlmHead
from jaxencoder.model.sentence import SentenceConfig
from jaxencoder.model.sparse import (
    QUERY_TABLE,
    QueryVectors,
    Saturation,
    SparseConfig,
    SparsePooling,
    query_vectors,
    sparse_vectors,
)
from jaxencoder.objectives.objective import Batch, Metrics, Objective, Params, Vocabulary, encode, mean, terms
from jaxencoder.tasks.embeddings.accuracy import ranking_accuracy
from jaxencoder.tasks.embeddings.examples import is_anchor
from jaxencoder.tasks.embeddings.losses import LOSSES, OF_VECTORS
from jaxencoder.tasks.embeddings.parts import in_parts
from jaxencoder.tasks.embeddings.prompted_texts import PromptedTexts
from jaxencoder.tasks.sparse.regularizers import active_dimensions, flops, l1
from jaxencoder.tasks.task import Network, TrainingLabels

log = logging.getLogger(__name__)

_REGULARIZERS = {"flops": flops, "l1": l1}
_POWERS = {"linear": 1, "quadratic": 2}
_OF_MODEL = ("pooling", "saturation", "queries")  # settings that the model keeps, as names of SparseConfig


@dataclass(frozen=True)
class SparseEmbeddings(PromptedTexts):
    """Settings of the training of sparse embeddings; ValueError if one lies outside its range."""

    similarity: Literal["", "dot", "cosine", "euclidean"] = ""
    """Compares two vectors. Empty: as a sparse init_from has it, or else dot."""
    scale: float = 1.0
    """Factor of similarities, the inverse of a temperature: in ranking, cosent and angle."""
    pooling: Literal["", SparsePooling] = ""
    """Largest score of each token of the vocabulary among those of a text's tokens (max), or their sum. Empty: as
    init_from has it, or else max."""
    saturation: Literal["", Saturation] = ""
    """log(1 + max(0, score)), once (log1p) or twice (log1p_log1p). Empty: as init_from has it, or else once."""
    queries: Literal["", QueryVectors] = ""
    """Vectors of anchors: by the encoder, or by a learned table with a weight for each token, so that queries need no
    encoder. Empty: as init_from has it, or else encoder."""
    regularizer: Literal["flops", "l1"] = "flops"
    """Makes vectors sparse: by the work of an inverted index (flops), or by their absolute sums (l1)."""
    query_weight: float = 5e-5
    """Factor of the regularizer of anchors. Set 0 with `queries` table, whose vectors have only a query's tokens."""
    document_weight: float = 3e-5
    """Factor of the regularizer of the other texts."""
    query_threshold: int = 0
    """Anchors with at most this number of active dimensions are not regularized."""
    document_threshold: int = 0
    """Other texts with at most this number of active dimensions are not regularized."""
    regularizer_warmup: float = 1 / 3
    """Fraction of the training in which these factors grow from 0."""
    regularizer_schedule: Literal["quadratic", "linear"] = "quadratic"
    """How they grow."""

    from_data: ClassVar[tuple[str, ...]] = (*PromptedTexts.from_data, *_OF_MODEL)

    def __post_init__(self) -> None:
        for loss in self.all_losses:
            if loss in OF_VECTORS or LOSSES[loss].has_head:
                raise ValueError(f"objective.loss is {loss}, which is for dense embeddings; give another loss.")
        super().__post_init__()
        names = ("query_weight", "document_weight", "query_threshold", "document_threshold", "regularizer_warmup")
        self.check_at_least(dict.fromkeys(names, 0))
        if self.regularizer_warmup > 1:
            raise ValueError(f"objective.regularizer_warmup must be at most 1, got {self.regularizer_warmup}.")

    @property
    def sentence(self) -> SentenceConfig:
        pooling, saturation = self.pooling or "max", self.saturation or "log1p"
        sparse = SparseConfig(pooling, saturation, self.queries or "encoder")
        return SentenceConfig(similarity=self.similarity or "dot", sparse=sparse, **self.prompt_settings())

    @property
    def sparse(self) -> SparseConfig:
        """How a text becomes a vector."""
        sparse = self.sentence.sparse
        assert sparse is not None  # `sentence` sets it
        return sparse

    def network(self, encoder: EncoderConfig, compute: ComputeConfig) -> Network:
        """Scores are the vectors [B, E, V] float32 of the texts of each row, all of them by the encoder."""
        module, head, settings = Encoder(encoder, compute, long_rows=True), MlmHead(encoder), self.sparse

        def init(key: jax.Array) -> Params:
            params = init_params(jax.random.split(key, 2), module, {"mlm_head": head})
            has_table = settings.queries == "table"
            return params | ({QUERY_TABLE: {"weight": jnp.ones(encoder.vocab_size)}} if has_table else {})

        def embed(params: Params, batch: Batch, key: jax.Array, train: bool) -> jax.Array:
            hidden = encode(module, params["encoder"], batch, key, train)
            return sparse_vectors(settings, encoder, params, hidden, batch["segment_ids"], batch["labels"].shape[1])

        return init, in_parts(embed, self.parts)

    def build(self, encoder: EncoderConfig, compute: ComputeConfig, vocabulary: Vocabulary) -> Objective:
        init, scores = self.network(encoder, compute)

        def loss(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
            vectors = scores(params, batch, key, train)
            if self.sparse.queries == "table":
                weight, texts = params[QUERY_TABLE]["weight"], vectors.shape[1]
                by_table = query_vectors(
                    weight, batch["token_ids"], batch["segment_ids"], texts, tuple(vocabulary.special_ids)
                )
                vectors = jnp.where(is_anchor(batch)[..., None], by_table, vectors)
            metrics = self.metrics(vectors, batch)
            return mean(metrics), metrics

        return self.with_prompt_counts(Objective(init, loss, scores), vocabulary)

    def loss_metrics(self, scores: jax.Array, batch: Batch) -> Metrics:
        """Loss and accuracy as of `Embeddings`, and the active dimensions of queries (anchors) and documents.

        The loss is the sum of pair_loss, query_regularizer and document_regularizer, the latter times their factors,
        which have their final values in evaluations.
        """
        vectors, mask, labels = self.examples(scores, batch)
        queries, documents = (vectors[:, :1], mask[:, :1]), (vectors[:, 1:], mask[:, 1:])
        regularizer = _REGULARIZERS[self.regularizer]
        metrics = {
            "pair_loss": self.pair_loss()(vectors, mask, labels),
            "query_regularizer": regularizer(*queries, self.query_threshold),
            "document_regularizer": regularizer(*documents, self.document_threshold),
            "accuracy": ranking_accuracy(vectors, self.texts(batch), self.sentence.similarity),
            "query_active": active_dimensions(*queries),
            "document_active": active_dimensions(*documents),
        }
        growth = self._growth(batch)
        factors = {
            "pair_loss": 1.0,
            "query_regularizer": growth * self.query_weight,
            "document_regularizer": growth * self.document_weight,
        }
        return metrics | {"loss": terms(metrics, factors)}

    def _growth(self, batch: Batch) -> jax.typing.ArrayLike:
        """The fraction of their final values that the regularizers' factors have reached."""
        if "progress" not in batch or not self.regularizer_warmup:
            return 1.0
        fraction = jnp.minimum(batch["progress"].max() / self.regularizer_warmup, 1)
        return fraction ** _POWERS[self.regularizer_schedule]

    def started_from(self, sentence: SentenceConfig) -> Self:
        """The objective with the choices of a sparse model that training starts from."""
        prompted = dataclasses.replace(self, **self.prompts_from(sentence))
        if sentence.sparse is None:  # a dense one was trained for something else
            return prompted
        kept = SparseConfig(**{name: getattr(sentence.sparse, name) for name in _OF_MODEL})
        pairs = zip(dataclasses.asdict(kept).items(), dataclasses.asdict(sentence.sparse).values(), strict=True)
        if dropped := [name for (name, value), initial in pairs if value != initial]:
            log.warning("init_from has its own %s, which the run does not keep.", " and ".join(dropped))
        choices = {name: getattr(self, name) or getattr(kept, name) for name in _OF_MODEL}
        return dataclasses.replace(prompted, similarity=self.similarity or sentence.similarity, **choices)

    def with_labels(self, labels: TrainingLabels) -> Self:
        settings = {name: getattr(self.sparse, name) for name in _OF_MODEL}
        return dataclasses.replace(super().with_labels(labels), **settings)

    def flops(self, encoder: EncoderConfig, row_length: int) -> float:
        return training_flops(encoder, row_length, 1.0)
