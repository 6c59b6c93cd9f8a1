"""Embeddings on packed rows: each text becomes a vector, and the vectors of all texts of a batch are compared.

The batch is that of all devices: its vectors are one array under jit, so that every text is compared with the texts of
all devices and hosts. With `parts`, texts are embedded a part of the batch at a time, see `in_parts`.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.model.config import ComputeConfig, EncoderConfig, Pooling
from jaxencoder.model.encoder import Encoder, init_params
from jaxencoder.model.sentence import SentenceConfig, Similarity, sentence_vectors
from jaxencoder.objectives.objective import Batch, Metrics, Objective, Params, Vocabulary, encode, terms
from jaxencoder.tasks.embeddings.distillation import check_temperatures, margin_mse, score_distillation
from jaxencoder.tasks.embeddings.matryoshka import matryoshka
from jaxencoder.tasks.embeddings.pairs import angle, contrastive, cosent, cosine_regression, online_contrastive
from jaxencoder.tasks.embeddings.parts import in_parts
from jaxencoder.tasks.embeddings.ranking import (
    Direction,
    Hardness,
    Partition,
    check_settings,
    multiple_negatives_ranking,
)
from jaxencoder.tasks.embeddings.spread import global_orthogonality
from jaxencoder.tasks.embeddings.triplets import triplet
from jaxencoder.tasks.embeddings.vectors import (
    Loss,
    by_blocks,
    finds_positive,
    masked_sum,
    query_scores,
    similarities,
    zero_absent,
)
from jaxencoder.tasks.task import Network, TaskObjective, TrainingLabels
from jaxencoder.text.buckets import prompt_tokens
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

EmbeddingLoss = Literal[
    "ranking", "triplet", "cosent", "angle", "cosine", "contrastive", "online_contrastive", "margin_mse", "kl"
]

_SCORED = ("cosent", "angle", "cosine", "contrastive", "online_contrastive")
_TAUGHT = ("margin_mse", "kl")
NO_PROMPT = "none"  # a value of the settings of prompts
_BY_DISTANCE = ("triplet", "contrastive", "online_contrastive")
# Settings that only some losses use.
_USED_BY = {
    "scale": ("ranking", "cosent", "angle"),
    "margin": _BY_DISTANCE,
    **dict.fromkeys(("directions", "partition", "hardness", "hardness_strength"), ("ranking",)),
    **dict.fromkeys(("student_temperature", "teacher_temperature"), ("kl",)),
}


@dataclass(frozen=True)
class ComparedTexts(TaskObjective):
    """Base of objectives whose loss compares the vectors of all texts of a batch."""

    loss: EmbeddingLoss = "ranking"
    """ranking: find the positive among the texts of the batch (InfoNCE, multiple negatives). triplet: positives nearer
    than negatives by a margin. The others need the score of each pair in data.label_field: cosent and angle learn their
    order; cosine the score itself, from -1 to 1; contrastive and online_contrastive (its hard pairs) whether it is at
    least 0.5. Of these only angle uses negatives. margin_mse and kl need a teacher's scores of the anchor with each
    text in data.label_field, and learn their differences or their distribution; their usual similarity is dot."""
    similarity: Literal["", Similarity] = ""
    """Compares two vectors. Empty: as init_from has it, or else cosine."""
    scale: float = 20.0
    """Factor of similarities, the inverse of a temperature: in ranking, cosent and angle."""
    margin: float = 0.5
    """Distance (1 - cosine, euclidean or manhattan) by which triplet and contrastive losses separate texts."""
    directions: tuple[Direction, ...] = ("query_to_document",)
    """Similarities in the softmax of ranking: query_to_document, document_to_query, query_to_query,
    document_to_document."""
    partition: Partition = "joint"
    """One softmax over all directions (joint), or the mean of one for each (per_direction)."""
    hardness: Hardness = "none"
    """Negatives that ranking weights by their similarity: hard (the example's own), in_batch or all."""
    hardness_strength: float = 0.0
    """Factor of these similarities: 5 in EmbeddingGemma, 9 in Lan et al. 2025, arXiv:2503.04812."""
    student_temperature: float = 1.0
    """Divides the similarities of kl."""
    teacher_temperature: float = 1.0
    """Divides the teacher's scores of kl."""
    parts: int = 1
    """Parts of a batch that are embedded one after another. More parts take less memory and give the same loss."""

    def __post_init__(self) -> None:
        self.check_at_least({"parts": 1, "margin": 0, "hardness_strength": 0})
        self.check_used(self.loss, _USED_BY)
        if (self.hardness == "none") != (self.hardness_strength == 0):
            problem = f"objective.hardness is {self.hardness}, and objective.hardness_strength {self.hardness_strength}"
            raise ValueError(f"{problem}; set both, or leave both out.")
        if self.loss in _BY_DISTANCE and self.sentence.similarity == "dot":
            raise ValueError(f"objective.loss {self.loss} compares distances, and dot is none; give cosine.")
        check_settings(self.scale, self.directions, self.partition, self.hardness, self.hardness_strength)
        check_temperatures(self.student_temperature, self.teacher_temperature)

    def check_at_least(self, limits: Mapping[str, float]) -> None:
        """ValueError if one of these settings is less than its limit."""
        for name, least in limits.items():
            if not getattr(self, name) >= least:
                raise ValueError(f"objective.{name} must be at least {least}, got {getattr(self, name)}.")

    @property
    def batch_multiple(self) -> int:
        return self.parts

    @property
    def compares_examples(self) -> bool:
        return True

    @property
    def label_array(self) -> tuple[tuple[int, ...], type]:
        return (), np.float32

    @property
    def prompts(self) -> tuple[str, str]:
        """The texts put before anchors and before other texts."""
        return "", ""

    def pair_loss(self) -> Callable[[jax.Array, jax.Array, jax.Array], Loss]:
        """The loss as a function of vectors [N, C, D], mask [N, C] and scores [N], or a teacher's [N, C - 1]."""
        similarity = self.sentence.similarity
        distance = {"distance": similarity, "margin": self.margin}
        match self.loss:
            case "ranking":
                names = ("scale", "directions", "partition", "hardness", "hardness_strength")
                settings = {name: getattr(self, name) for name in names}
                return lambda x, mask, _: multiple_negatives_ranking(x, mask, similarity=similarity, **settings)
            case "triplet":
                return lambda x, mask, _: triplet(x, mask, **distance)
            case "cosent":
                return partial(cosent, similarity=similarity, scale=self.scale)
            case "angle":
                return partial(angle, scale=self.scale)
            case "cosine":
                return cosine_regression
            case "margin_mse":
                return lambda x, mask, teacher: margin_mse(query_scores(similarity, x, mask), mask, teacher)
            case "kl":
                names = ("student_temperature", "teacher_temperature")
                kl = partial(score_distillation, **{name: getattr(self, name) for name in names})
                return lambda x, mask, teacher: kl(query_scores(similarity, x, mask), mask, teacher)
        loss = contrastive if self.loss == "contrastive" else online_contrastive
        return lambda x, mask, scores: loss(x, mask, _classes(scores), **distance)

    def examples(self, scores: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`examples` of a batch, with a teacher's scores if the loss learns them; ValueError if it needs negatives."""
        vectors, mask, labels = examples(scores, batch)
        labels = teacher_scores(batch) if self.loss in _TAUGHT else labels
        if self.loss == "triplet" and vectors.shape[1] < 3:
            raise ValueError("objective.loss is triplet, but no record has a negative; add some, or set another loss.")
        return vectors, mask, labels

    def with_labels(self, labels: TrainingLabels) -> Self:
        if self.loss in _TAUGHT and not labels.field:
            raise ValueError(f"objective.loss is {self.loss}, which needs a teacher's scores; name data.label_field.")
        if self.loss in _SCORED and not labels.field:
            raise ValueError(f"objective.loss is {self.loss}, which needs scores; name data.label_field.")
        if self.loss not in (*_SCORED, *_TAUGHT) and labels.field:
            problem = f"objective.loss is {self.loss}, which takes all pairs as similar, whatever their scores"
            raise ValueError(f"{problem}; leave out data.label_field, {labels.field}, or set another loss.")
        return dataclasses.replace(self, similarity=self.sentence.similarity)


@dataclass(frozen=True)
class Embeddings(ComparedTexts):
    """Settings of the training of embeddings; ValueError if one lies outside its range."""

    pooling: Literal["", Pooling] = ""
    """How the vectors of a text's tokens become one: mean, cls, max, lasttoken, weightedmean or mean_sqrt_len. Empty:
    as init_from has it, or else mean."""
    normalize: bool = False
    """Scale the vectors to length 1, also where they are used later. True if init_from does so."""
    dimensions: tuple[int, ...] = ()
    """Also train these leading dimensions of the vectors (Matryoshka), such as 384 256 128 64. Empty: all only."""
    spread: float = 0.0
    """Factor of a loss that spreads the vectors over the space, as in EmbeddingGemma."""
    query_prompt: str = ""
    """Text put before each anchor, or the name of a prompt that init_from stores, or none. Empty: its prompt query, or
    else its default prompt, if it has them."""
    document_prompt: str = ""
    """The same for the other texts; empty: its prompt document, or else its default prompt."""
    other_prompts: tuple[str, ...] = ()
    """Name and text, in turn, of other prompts that the model stores for later use. Empty: as init_from has them."""
    include_prompt: bool = True
    """Pool the tokens of prompts too. False if init_from does not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pooling == "learned":
            raise ValueError("objective.pooling is 'learned', which is for classifiers; give another pooling.")
        self.check_at_least({"spread": 0})
        if len(self.other_prompts) % 2:
            raise ValueError(
                f"objective.other_prompts is {self.other_prompts}; give a name and a text for each prompt."
            )
        if self.dimensions and min(self.dimensions) < 1:
            raise ValueError(f"objective.dimensions is {self.dimensions}; give positive numbers.")

    @property
    def sentence(self) -> SentenceConfig:
        pooling, similarity = self.pooling or "mean", self.similarity or "cosine"
        names = zip(("query", "document"), self.prompts, strict=True)
        more = zip(self.other_prompts[::2], self.other_prompts[1::2], strict=True)
        prompts = tuple((name, text) for name, text in (*names, *more) if text)
        query, document = self.prompts
        default = "query" if query and query == document else None  # one prompt for all texts
        settings = {"prompts": prompts, "default_prompt": default, "include_prompt": self.include_prompt}
        return SentenceConfig((pooling,), normalize=self.normalize, similarity=similarity, **settings)

    @property
    def prompts(self) -> tuple[str, str]:
        query, document = ("" if text == NO_PROMPT else text for text in (self.query_prompt, self.document_prompt))
        return query, document

    def network(self, encoder: EncoderConfig, compute: ComputeConfig) -> Network:
        """Scores are the vectors [B, E, D] float32 of the texts of each row."""
        module, settings = Encoder(encoder, compute), self.sentence

        def init(key: jax.Array) -> Params:
            return init_params(jax.random.split(key, 1), module, {})

        def embed(params: Params, batch: Batch, key: jax.Array, train: bool) -> jax.Array:
            hidden, skipped = encode(module, params["encoder"], batch, key, train), batch.get("skipped")
            skip = None if skipped is None else skipped[..., None]
            return sentence_vectors(settings, {}, hidden, batch["segment_ids"], batch["labels"].shape[1], skip)

        return init, in_parts(embed, self.parts)

    def build(self, encoder: EncoderConfig, compute: ComputeConfig, vocabulary: Vocabulary) -> Objective:
        objective = super().build(encoder, compute, vocabulary)
        if self.include_prompt or not any(self.prompts):
            return objective
        tokenizer = cast(Tokenizer, vocabulary)
        query, document = (prompt_tokens(tokenizer, text) if text else 0 for text in self.prompts)

        def skipping(function: Callable[..., Any]) -> Callable[..., Any]:
            def of_batch(params: Params, batch: Batch, key: jax.Array, train: bool) -> Any:
                return function(params, batch | {"skipped": jnp.where(is_anchor(batch), query, document)}, key, train)

            return of_batch

        assert objective.scores is not None  # the objectives of tasks have them
        return objective._replace(loss=skipping(objective.loss), scores=skipping(objective.scores))

    def metrics(self, scores: jax.Array, batch: Batch) -> Metrics:
        """Loss and accuracy: the anchors to which no text of the batch but anchors is as similar as the positive.

        With `spread` the loss is the sum of pair_loss and `spread` times spread_loss.
        """
        vectors, mask, labels = self.examples(scores, batch)
        similarity, loss = self.sentence.similarity, self.pair_loss()
        if self.dimensions:
            loss = matryoshka(loss, self.dimensions)
        metrics = {"loss": loss(vectors, mask, labels), "accuracy": ranking_accuracy(vectors, mask, similarity)}
        if self.spread:
            metrics["pair_loss"] = metrics["loss"]
            metrics["spread_loss"] = global_orthogonality(vectors, mask, similarity=similarity)
            metrics["loss"] = terms(metrics, {"pair_loss": 1.0, "spread_loss": self.spread})
        return metrics

    def started_from(self, sentence: SentenceConfig) -> Self:
        """The objective with the choices of the model that training starts from; ValueError for its modules."""
        if sentence.modules:
            kinds = ", ".join(type(module).__name__ for module in sentence.modules)
            raise ValueError(f"init_from has the modules {kinds} after pooling, which are not trained here yet.")
        (pooling, *more_poolings) = sentence.pooling
        if more_poolings and not self.pooling:
            raise ValueError(f"init_from pools by {' and '.join(sentence.pooling)}; name one with objective.pooling.")
        names = {"query_prompt": "query", "document_prompt": "document"}
        other_prompts = (pair for pair in sentence.prompts if pair[0] not in names.values() and pair[1])
        return dataclasses.replace(
            self,
            **{setting: self._prompt(setting, name, sentence) for setting, name in names.items()},
            other_prompts=self.other_prompts or tuple(x for pair in other_prompts for x in pair),
            include_prompt=self.include_prompt and sentence.include_prompt,
            pooling=self.pooling or pooling,
            similarity=self.similarity or sentence.similarity,
            normalize=self.normalize or sentence.normalize,
        )

    def _prompt(self, setting: str, name: str, sentence: SentenceConfig) -> str:
        """The text of a prompt: that of the setting, of the stored one of this name, or of the default one."""
        value, stored = getattr(self, setting), dict(sentence.prompts)
        if value == NO_PROMPT:
            return value
        try:
            return sentence.prompt(value or (name if name in stored else None))
        except ValueError as error:
            raise ValueError(f"objective.{setting} is {value!r}: {error}") from None

    def with_labels(self, labels: TrainingLabels) -> Self:
        return dataclasses.replace(super().with_labels(labels), pooling=self.sentence.pooling[0])


def examples(vectors: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The examples of a batch: their vectors float32 [N, C, D], which texts there are bool [N, C], scores float32 [N].

    `vectors` [B, E, D] are those of each row's texts, and N is B times the most examples of a row: some are padding,
    without any text. The texts of an example are the anchor, its positive, and negatives. Scores are NaN for none.
    """
    tuples = batch["tuples"]  # [B, G, C]
    chosen = jax.vmap(lambda x, index: x[index])(vectors, tuples)  # [B, G, C, D]
    scores = jax.vmap(lambda x, index: x[index])(batch["labels"], tuples[..., 0])  # [B, G]
    mask = tuples >= 0
    scores = jnp.where(mask[..., 0], scores, jnp.nan)
    texts = tuples.shape[-1]
    return chosen.reshape(-1, texts, vectors.shape[-1]), mask.reshape(-1, texts), scores.reshape(-1)


def is_anchor(batch: Batch) -> jax.Array:
    """Which texts of each row are anchors, bool [B, E]."""
    return (batch["tuples"][..., :1] == jnp.arange(batch["labels"].shape[1])).any(1)


def teacher_scores(batch: Batch) -> jax.Array:
    """A teacher's scores float32 [N, C - 1] of each anchor with its texts, NaN for none; N and C as in `examples`."""
    tuples = batch["tuples"][..., 1:]  # [B, G, C - 1]
    scores = jax.vmap(lambda x, index: x[index])(batch["labels"], tuples)
    return jnp.where(tuples >= 0, scores, jnp.nan).reshape(-1, tuples.shape[-1])


def ranking_accuracy(vectors: jax.Array, mask: jax.Array, similarity: Similarity) -> tuple[jax.Array, jax.Array]:
    """The number of anchors to which no other text is as similar as their positive, and the number of pairs.

    `vectors` [N, C, D] and `mask` [N, C] are as in `examples`. The texts are those of all examples but anchors.
    """
    x = jax.lax.stop_gradient(zero_absent(vectors, mask))

    def is_first(anchors: jax.Array, numbers: jax.Array) -> jax.Array:
        scores = jnp.where(mask[:, 1:], similarities(similarity, anchors, x[:, 1:]), -jnp.inf)  # [n, N, C - 1]
        return finds_positive(scores, numbers).astype(jnp.float32)

    return masked_sum(by_blocks(is_first, x[:, 0], jnp.arange(len(x))), mask[:, 0] & mask[:, 1])


def _classes(scores: jax.Array) -> jax.Array:
    """1 for similar pairs, 0 for others and -1 for those without a score."""
    return jnp.where(jnp.isnan(scores), -1, scores >= 0.5).astype(jnp.int32)
