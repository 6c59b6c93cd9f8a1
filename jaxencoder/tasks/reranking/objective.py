"""Reranking on packed rows: a score of each document with its query, and a loss over the documents of a query.

Nogueira and Cho 2019 (passage re-ranking with BERT), arXiv:1901.04085. The head is that of the model's published
family, so that a trained model opens in transformers and sentence-transformers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.families.classifier import scoring_heads
from jaxencoder.families.published import family_of
from jaxencoder.kernels.dropout import dropout
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.cross_encoder import CrossEncoderConfig
from jaxencoder.model.encoder import Encoder, init_params
from jaxencoder.model.heads import Head, HeadConfig, apply_heads, first_tokens
from jaxencoder.model.sentence import ACTIVATIONS
from jaxencoder.objectives.objective import Batch, Metrics, Params, encode
from jaxencoder.tasks.embeddings.batch_objective import check_label_field
from jaxencoder.tasks.embeddings.examples import take_from_rows, text_labels, text_mask
from jaxencoder.tasks.embeddings.vectors import Loss, check_choice, masked_sum
from jaxencoder.tasks.reranking import listwise, pointwise
from jaxencoder.tasks.reranking.listwise import Order, Weighting
from jaxencoder.tasks.scores import check_dropout
from jaxencoder.tasks.task import Network, TaskObjective, TrainingLabels

RerankingLoss = Literal[
    "bce", "infonce", "mse", "margin_mse", "lambda", "rank_net", "list_net", "list_mle", "plist_mle", "adr_mse"
]  # fmt: skip
ScoreActivation = Literal["identity", "sigmoid", "tanh"]

HEADS = ("pooler", "sequence_head")  # their names among the parameters; the first only in some families
_OF_DOCUMENTS = ("bce", "mse")  # losses of each document by itself
# Settings that only some losses use.
_USED_BY = {
    "pos_weight": ("bce",),
    "scale": ("infonce", "lambda", "rank_net", "adr_mse"),
    "temperature": ("list_net",),
    "weighting": ("lambda",),
    "mu": ("lambda",),
    "top": ("lambda", "rank_net"),
    "order": ("list_mle", "plist_mle"),
}


@dataclass(frozen=True)
class Reranking(TaskObjective):
    """Settings of the training of cross-encoders; ValueError if one lies outside its range."""

    loss: RerankingLoss = "bce"
    """bce: whether each document answers the query, of labels from 0 to 1. infonce: find the document with a label of
    at least 0.5 among the query's others. mse: a teacher's score. margin_mse: a teacher's differences from the first
    document. Of lists of graded documents: lambda (nDCG), rank_net (pairs), list_net (softmax of the labels), list_mle,
    plist_mle (likelihood of the order), adr_mse (ranks)."""
    dropout: float = 0.1
    """Rate on the vector that the head projects to a score."""
    activation: ScoreActivation = "identity"
    """Applied to scores before the loss. With a sigmoid, infonce hardly learns from scores far from 0; bce has one of
    its own."""
    score_activation: Literal["", ScoreActivation] = ""
    """Applied to scores when the trained model is used. Empty: sigmoid for bce, or else as `activation`."""
    scale: float = 1.0
    """Factor of the scores, the inverse of a temperature: in infonce, lambda, rank_net and adr_mse."""
    temperature: float = 1.0
    """Divides the labels in list_net."""
    pos_weight: float = 1.0
    """Factor of the loss of relevant documents in bce, such as the number of negatives per positive."""
    weighting: Weighting = "ndcg2++"
    """Weights of the pairs in lambda: none, ndcg1, ndcg2, lambdarank or ndcg2++."""
    mu: float = 10.0
    """Factor of ndcg2 in the weighting ndcg2++."""
    top: int = 0
    """Only pairs with one of the first documents by score, this many, in lambda and rank_net. 0: all."""
    order: Order = "labels"
    """Right order of documents in list_mle and plist_mle: by label, or as given (input)."""
    heads_of_family: tuple[HeadConfig, ...] = ()
    """The pooler, if there is one, and the head with one output. Empty: those of the family of init_from."""

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        check_choice("objective.loss", self.loss, get_args(RerankingLoss))
        self.check_used([self.loss], _USED_BY)
        if self.loss == "bce" and self.activation != "identity":
            problem = f"objective.activation is {self.activation}, but objective.loss bce has a sigmoid of its own"
            raise ValueError(f"{problem}; leave it out.")
        if self.loss == "lambda" and self.weighting != "ndcg2++" and self.mu != type(self).mu:
            raise ValueError(f"objective.mu is {self.mu}, which objective.weighting {self.weighting} does not use.")
        for name in ("scale", "temperature", "pos_weight", "mu"):
            pointwise.check_positive(f"objective.{name}", getattr(self, name))
        if self.top < 0:
            raise ValueError(f"objective.top must be 0 or a positive number, got {self.top}.")
        if len(self.heads_of_family) > len(HEADS) or (self.heads_of_family and self.heads_of_family[-1].outputs != 1):
            problem = f"objective.heads_of_family has {len(self.heads_of_family)} heads"
            raise ValueError(f"{problem}; give a pooler, or none, and a head with outputs 1, or leave it out.")

    def heads(self, encoder: EncoderConfig) -> Mapping[str, HeadConfig]:
        configs = self.heads_of_family
        if not configs:
            configs = tuple(_default_heads(encoder).values())
        return dict(zip(HEADS[-len(configs) :], configs, strict=True))

    @property
    def cross_encoder(self) -> CrossEncoderConfig:
        return CrossEncoderConfig(self.score_activation or ("sigmoid" if self.loss == "bce" else self.activation))

    def network(self, encoder: EncoderConfig, compute: ComputeConfig) -> Network:
        """Scores are [B, E, 1] float32, one of each document with its query."""
        module, heads = Encoder(encoder, compute, long_rows=True), tuple(self.heads(encoder).items())

        def init(key: jax.Array) -> Params:
            modules = {name: Head(encoder, head) for name, head in heads}
            return init_params(jax.random.split(key, 1 + len(heads)), module, modules)

        def scores(params: Params, batch: Batch, key: jax.Array, train: bool) -> jax.Array:
            encoder_key, head_key = jax.random.split(key)
            segment_ids, texts = batch["segment_ids"], batch["labels"].shape[1]
            if any(head.global_tokens == "first" for _, head in heads):
                batch = batch | {"global_slots": first_tokens(segment_ids, texts)}
            hidden = encode(module, params["encoder"], batch, encoder_key, train)
            drop = partial(dropout, rate=self.dropout if train else 0.0, key=head_key)
            return apply_heads(encoder, heads, params, hidden, batch, texts, drop)[HEADS[-1]]

        return init, scores

    def metrics(self, scores: jax.Array, batch: Batch) -> Metrics:
        """Loss and accuracy: of queries, whether a document with the greatest label has the greatest score of all.

        Queries whose documents all have one label are left out. If each query has a single document, accuracy is of
        documents: whether their score is above 0 if, and only if, their label is at least 0.5.
        """
        values, labels, mask = lists(scores[..., 0], batch)
        loss = self._loss()(ACTIVATIONS[self.activation](values), labels, mask)
        return {"loss": loss, "accuracy": accuracy(values, labels, mask)}

    def _loss(self) -> Callable[[jax.Array, jax.Array, jax.Array], Loss]:
        """The loss as a function of scores, labels and mask [N, K]."""
        pairs = {"sigma": self.scale, "k": self.top}
        losses: dict[RerankingLoss, Callable[..., Loss]] = {
            "bce": partial(pointwise.binary_cross_entropy, pos_weight=self.pos_weight),
            "infonce": partial(pointwise.info_nce, scale=self.scale),
            "mse": pointwise.squared_error,
            "margin_mse": pointwise.margin_mse,
            "lambda": partial(listwise.lambda_loss, weighting=self.weighting, mu=self.mu, **pairs),
            "rank_net": partial(listwise.rank_net, **pairs),
            "list_net": partial(listwise.list_net, temperature=self.temperature),
            "list_mle": partial(listwise.list_mle, order=self.order),
            "plist_mle": partial(listwise.list_mle, order=self.order, by_position=True),
            "adr_mse": partial(listwise.adr_mse, alpha=self.scale),
        }
        return losses[self.loss]

    @property
    def problem_type(self) -> str:
        return "regression"

    @property
    def label_array(self) -> tuple[tuple[int, ...], type]:
        return (), np.float32

    def started_with_heads(self, heads: Mapping[str, HeadConfig]) -> Self:
        return self if self.heads_of_family else replace(self, heads_of_family=tuple(heads.values()))

    def with_labels(self, labels: TrainingLabels) -> Self:
        if labels.texts == 1 and not labels.field:
            problem = "each record has one document, which answers its query, and no other to tell it from"
            raise ValueError(f"{problem}; add negatives, or labels with data.label_field.")
        if labels.texts == 1 and self.loss not in _OF_DOCUMENTS:
            problem = f"objective.loss is {self.loss}, which compares documents of a query, but each record has one"
            raise ValueError(f"{problem}; put all of a query into one record, or set objective.loss to bce or mse.")
        if self.loss in ("mse", "margin_mse"):
            check_label_field(self.loss, labels.field, "a teacher's scores")
        return self


def _default_heads(encoder: EncoderConfig) -> dict[str, HeadConfig]:
    """The heads of the first family that has this architecture; else BERT's in one."""
    try:
        return scoring_heads(family_of(encoder, HEADS), encoder)
    except ValueError:
        return scoring_heads(None, encoder)


def lists(scores: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The lists of a batch: scores and labels float32 [N, K], and which documents there are, bool [N, K].

    `scores` [B, E] are those of each row's documents, and N is B times the most lists of a row: some are empty.
    """
    values = take_from_rows(scores, batch["tuples"])  # [B, G, K]
    return values.reshape(-1, values.shape[-1]), text_labels(batch), text_mask(batch)


def accuracy(scores: jax.Array, labels: jax.Array, mask: jax.Array) -> Loss:
    """The accuracy of `Reranking.metrics` as a sum and a weight, from the arrays of `lists`."""
    mask = mask & ~jnp.isnan(labels)
    if labels.shape[1] == 1:
        return masked_sum(((scores > 0) == (labels >= pointwise.POSITIVE)).astype(jnp.float32), mask)
    greatest = jnp.where(mask, labels, -jnp.inf).max(1, keepdims=True)
    best, other = (
        jnp.where(mask & chosen, scores, -jnp.inf).max(1) for chosen in (labels == greatest, labels < greatest)
    )
    return masked_sum((best > other).astype(jnp.float32), (mask & (labels < greatest)).any(1))
