"""Embeddings on packed rows: each text becomes a vector, and the vectors of all texts of a batch are compared."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp

from jaxencoder.model.config import ComputeConfig, EncoderConfig, Pooling, Role
from jaxencoder.model.encoder import Encoder, init_params
from jaxencoder.model.sentence import MODULES, Module, SentenceConfig, sentence_vectors
from jaxencoder.objectives.objective import Batch, Metrics, Objective, Params, Vocabulary, encode_layers, mean, terms
from jaxencoder.tasks.embeddings.accuracy import nearest_accuracy, pair_class_accuracy, ranking_accuracy
from jaxencoder.tasks.embeddings.examples import examples
from jaxencoder.tasks.embeddings.layers import LayerSettings, layer_divergence, loss_of_layers
from jaxencoder.tasks.embeddings.losses import LOSSES, OF_VECTORS, VectorLoss
from jaxencoder.tasks.embeddings.matryoshka import matryoshka
from jaxencoder.tasks.embeddings.modules import Activation, with_projection
from jaxencoder.tasks.embeddings.parts import in_parts
from jaxencoder.tasks.embeddings.prompted_texts import PromptedTexts
from jaxencoder.tasks.embeddings.spread import global_orthogonality
from jaxencoder.tasks.embeddings.teacher import (
    PROJECTION,
    USED_BY,
    TeacherSettings,
    check_guided,
    check_teacher,
    guided_loss,
    taught,
    teacher_vectors,
    with_teacher_projection,
)
from jaxencoder.tasks.embeddings.towers import Towers, with_query_tower
from jaxencoder.tasks.task import Network, TrainingLabels

PAIR_HEAD = "pair_classifier"  # of its parameters
LAYERS = "layer_vectors"  # name in a batch of the vectors [L, B, E, D] of the first layers


@dataclass(frozen=True)
class Embeddings(LayerSettings, TeacherSettings, PromptedTexts):
    """Settings of the training of embeddings; ValueError if one lies outside its range."""

    pooling: Literal["", Pooling] = ""
    """How the vectors of a text's tokens become one: mean, cls, max, lasttoken, weightedmean or mean_sqrt_len. Empty:
    as init_from has it, or else mean."""
    more_poolings: tuple[Pooling, ...] = ()
    """Other poolings, whose vectors follow that of `pooling`. Empty: as init_from has them."""
    projection: int = 0
    """Size of the vectors after a new layer that follows the pooling; 0 for no such layer."""
    projection_activation: Activation = "identity"
    """What follows this layer."""
    modules: tuple[Module, ...] = ()
    """Layers after the pooling, all trained. Empty: as init_from has them, or the one of `projection`."""
    towers: Towers = "shared"
    """One encoder for all texts (shared), or one for anchors and one for the other texts (separate), which takes twice
    the time and memory; both start from init_from. Separate if init_from has two."""
    default_role: Literal["", Role] = ""
    """Which of two towers embeds a text later that is said to be neither a query nor a document. Empty: as init_from
    has it, or else document."""
    normalize: bool = False
    """Scale the vectors to length 1, also where they are used later. True if init_from does so."""
    dimensions: tuple[int, ...] = ()
    """Also train these leading dimensions of the vectors (Matryoshka), such as 384 256 128 64. Empty: all only."""
    spread: float = 0.0
    """Factor of a loss that spreads the vectors over the space, as in EmbeddingGemma."""
    include_prompt: bool = True
    """Pool the tokens of prompts too. False if init_from does not."""
    class_names: tuple[str, ...] = ()
    """Names of the classes of softmax in order of id; empty: those of the training data."""

    from_data: ClassVar[tuple[str, ...]] = (*PromptedTexts.from_data, "pooling", "teacher_size", "class_names")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_layers()
        self.check_used(self.all_losses, USED_BY)
        if self.losses and (self.guide or set(self.losses) & set(OF_VECTORS)):
            losses = " ".join(self.losses)
            raise ValueError(f"objective.losses is {losses}, but other models' vectors need objective.loss; set it.")
        check_teacher(self, self.loss)
        if self.guide:
            check_guided(self.sentence.similarity, self.directions, self.partition, self.hardness)
        if "learned" in (self.pooling, *self.more_poolings):
            raise ValueError("objective.pooling is 'learned', which is for classifiers; give another pooling.")
        self.check_at_least({"spread": 0, "projection": 0, "teacher_size": 0})
        if self.more_poolings and not self.pooling:
            raise ValueError(
                f"objective.more_poolings is {self.more_poolings}; name the first one in objective.pooling."
            )
        if not self.projection and self.projection_activation != "identity":
            problem = f"objective.projection_activation is {self.projection_activation}, but objective.projection is 0"
            raise ValueError(f"{problem}; give the size of the vectors.")
        self._check_classes()
        if self.default_role and self.towers == "shared":
            problem = f"objective.default_role is {self.default_role}, but objective.towers is shared"
            raise ValueError(f"{problem}; leave it out, or set separate.")
        if self.dimensions and min(self.dimensions) < 1:
            raise ValueError(f"objective.dimensions is {self.dimensions}; give positive numbers.")

    def _check_classes(self) -> None:
        """ValueError for settings that do not go together with losses of classes."""
        if self._has_head and self.dimensions:
            problem = (
                f"objective.dimensions is {self.dimensions}, but objective.loss {self.loss} classifies all of them"
            )
            raise ValueError(f"{problem}; leave it out.")
        if self.class_names and not self._has_head:
            raise ValueError(
                f"objective.class_names is {self.class_names}, but only softmax has classes; leave it out."
            )
        if self.towers == "separate" and LOSSES[self.all_losses[0]].labels == "text_classes":
            problem = f"objective.towers is separate, or init_from has two encoders, but {self.all_losses[0]}"
            raise ValueError(f"{problem} compares single texts; train one encoder.")

    @property
    def sentence(self) -> SentenceConfig:
        poolings: tuple[Pooling, ...] = (self.pooling or "mean", *self.more_poolings)
        similarity = self.similarity or "cosine"
        is_separate = self.towers == "separate"  # then the names of prompts tell the towers apart
        settings: dict[str, Any] = self.prompt_settings(keep_empty=is_separate)
        settings |= {"include_prompt": self.include_prompt}
        settings |= {"modules": self.modules, "normalize": self.normalize}
        settings |= {"default_role": (self.default_role or "document") if is_separate else None}
        return SentenceConfig(poolings, similarity=similarity, **settings)

    @property
    def _has_head(self) -> bool:
        """Whether a classifier of pairs is trained too."""
        return any(LOSSES[loss].has_head for loss in self.all_losses)

    def network(self, encoder: EncoderConfig, compute: ComputeConfig) -> Network:
        """Scores are the vectors [B, E, D] float32 of the texts of each row."""
        return self.network_of_layers(encoder, compute, ())

    def network_of_layers(self, encoder: EncoderConfig, compute: ComputeConfig, numbers: Sequence[int]) -> Network:
        """Scores are the vectors [B, E, (1 + K) D] float32 of the model, then of its first layers, of K numbers."""
        module, settings = Encoder(encoder, compute, long_rows=True), self.for_encoder(encoder).sentence

        def init(key: jax.Array) -> Params:
            params = init_params(jax.random.split(key, 1), module, {})
            layers = settings.init(jax.random.fold_in(key, 1))
            params |= {MODULES: layers} if layers else {}
            if self._has_head:
                shape = 3 * settings.size(encoder.hidden_size), len(self.class_names)
                kernel = jax.random.normal(jax.random.fold_in(key, 2), shape) * encoder.initializer_std
                params |= {PAIR_HEAD: {"kernel": kernel, "bias": jnp.zeros(shape[1])}}
            return params

        def embed(params: Params, batch: Batch, key: jax.Array, train: bool) -> jax.Array:
            outputs = encode_layers(module, params["encoder"], numbers, batch, key, train)  # [1 + K, B, T, D]
            skip = None if (skipped := batch.get("skipped")) is None else skipped[..., None]
            layers, segment_ids, texts = params.get(MODULES, {}), batch["segment_ids"], batch["labels"].shape[1]
            dropout_key = jax.random.fold_in(key, 1) if train else None
            vectors = [
                sentence_vectors(settings, layers, x, segment_ids, texts, skip, key=dropout_key) for x in outputs
            ]
            return jnp.concatenate(vectors, -1)

        network = with_query_tower((init, embed)) if self.towers == "separate" else (init, embed)
        network = with_teacher_projection(network, self, settings.size(encoder.hidden_size), self.dimensions)
        return network[0], in_parts(network[1], self.parts)

    def build(self, encoder: EncoderConfig, compute: ComputeConfig, vocabulary: Vocabulary) -> Objective:
        objective = super().build(encoder, compute, vocabulary)
        if self.layers:
            objective = objective._replace(loss=self._loss_with_layers(encoder, compute))
        return self.with_prompt_counts(objective, vocabulary, self.include_prompt)

    def _loss_with_layers(self, encoder: EncoderConfig, compute: ComputeConfig) -> Callable[..., Any]:
        """The function `loss` of an objective that trains the first layers too."""
        self.check_model(encoder.num_layers)
        _, embed = self.network_of_layers(encoder, compute, self.layers)

        def loss(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
            vectors = jnp.stack(jnp.split(embed(params, batch, key, train), 1 + len(self.layers), -1))
            # An evaluation takes all of them.
            of_layers = self.drawn_layers(vectors[1:], jax.random.fold_in(key, 3)) if train else vectors[1:]
            metrics = self.metrics(vectors[0], self.loss_batch(params, batch) | {LAYERS: of_layers})
            return mean(metrics), metrics

        return loss

    def loss_batch(self, params: Params, batch: Batch) -> Batch:
        return batch | {name: params[name] for name in (PROJECTION, PAIR_HEAD) if name in params}

    def examples(self, scores: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        vectors, mask, labels = super().examples(scores, batch)
        return vectors, mask, teacher_vectors(batch) if self.vectors_of else labels

    def pair_loss(self, head: Callable[[jax.Array], jax.Array] | None = None) -> VectorLoss:
        return guided_loss(self, self.scale, self.directions) if self.guide else super().pair_loss(head)

    def loss_metrics(self, scores: jax.Array, batch: Batch) -> Metrics:
        """Loss and accuracy: the anchors to which no text of the batch but anchors is as similar as the positive.

        If the loss learns classes, accuracy is that of `nearest_accuracy` or `pair_class_accuracy`. Batches of single
        texts without classes have none. With `spread` and `layers` the loss is the sum of pair_loss and others, times
        their factors.
        """
        vectors, mask, labels = self.examples(scores, batch)
        similarity, head = self.sentence.similarity, pair_head(batch) if self._has_head else None
        loss = self.pair_loss(head)
        if self.dimensions:
            loss = matryoshka(loss, self.dimensions)
        if self.teacher:
            loss = taught(loss, batch.get(PROJECTION))
        texts = self.texts(batch) if self.guide else mask  # beside the guide's vectors, which are the labels
        metrics, factors = {"loss": loss(vectors, texts, labels)}, {"pair_loss": 1.0}
        if head is not None:
            metrics["accuracy"] = pair_class_accuracy(vectors, mask, labels, head)
        elif LOSSES[self.loss].labels == "text_classes":
            metrics["accuracy"] = nearest_accuracy(vectors, labels, similarity)
        elif vectors.shape[1] > 1:
            metrics["accuracy"] = ranking_accuracy(vectors, self.texts(batch), similarity)
        if self.spread:
            metrics["spread_loss"] = global_orthogonality(vectors, mask, similarity=similarity)
            factors["spread_loss"] = self.spread
        if LAYERS in batch:
            of_layers = jax.vmap(lambda x: examples(x, batch)[0])(batch[LAYERS])  # [L, N, C, D]
            temperature, count = self.layer_temperature, self.layers_per_step or len(self.layers)
            metrics["layer_loss"] = loss_of_layers(loss, of_layers, texts, labels)
            metrics["layer_divergence"] = layer_divergence(of_layers, vectors, mask, temperature=temperature)
            factors["layer_loss"] = self.layer_weight
            # As many layers as in an update, where there are all of them.
            factors["layer_divergence"] = self.layer_divergence_weight * temperature * count / len(of_layers)
        if len(factors) > 1:
            metrics["pair_loss"] = metrics["loss"]
            metrics["loss"] = terms(metrics, factors)
        return metrics

    def started_from(self, sentence: SentenceConfig) -> Self:
        """The objective with the choices of the model that training starts from."""
        pooling, *more_poolings = sentence.pooling
        return dataclasses.replace(
            self,
            **self.prompts_from(sentence),
            include_prompt=self.include_prompt and sentence.include_prompt,
            pooling=self.pooling or pooling,
            more_poolings=self.more_poolings if self.pooling else tuple(more_poolings),
            modules=self.modules or sentence.modules,
            towers="separate" if sentence.default_role else self.towers,
            default_role=self.default_role or sentence.default_role or "",
            similarity=self.similarity or sentence.similarity,
            normalize=self.normalize or sentence.normalize,
        )

    def flops(self, encoder: EncoderConfig, row_length: int) -> float:
        return super().flops(encoder, row_length) * (2 if self.towers == "separate" else 1)

    def for_encoder(self, encoder: EncoderConfig) -> Self:
        modules = self.modules
        if self.projection:
            size = SentenceConfig(self.sentence.pooling).size(encoder.hidden_size)
            modules = with_projection(modules, size, self.projection, self.projection_activation)
        objective = dataclasses.replace(self, modules=modules)
        objective.sentence.size(encoder.hidden_size)  # refuses modules of other sizes
        return objective

    def with_labels(self, labels: TrainingLabels) -> Self:
        names = labels.names if self._has_head else ()
        if self.class_names not in ((), names):
            problem = f"objective.class_names is {', '.join(self.class_names)}, but the data has {', '.join(names)}"
            raise ValueError(f"{problem}; leave it out.")
        return dataclasses.replace(super().with_labels(labels), pooling=self.sentence.pooling[0], class_names=names)

    def of_source(self, number: int) -> Self:
        classes = self.class_names if LOSSES[self.losses[number]].has_head else ()
        return super(Embeddings, dataclasses.replace(self, class_names=classes)).of_source(number)

    def with_assumed_labels(self, names: Sequence[str]) -> Self:
        classes = self.class_names or tuple(names) or ("0", "1")
        return dataclasses.replace(self, class_names=classes) if self._has_head else self


def pair_head(params: Params) -> Callable[[jax.Array], jax.Array]:
    """The trained classifier of pairs: from `pair_features` [N, 3 * D] to scores [N, K] of the classes.

    Its parameters are among those of a run, or in the batch of a loss.
    """
    head = params[PAIR_HEAD]
    return lambda features: jnp.matmul(features, head["kernel"], precision=jax.lax.Precision.HIGHEST) + head["bias"]
