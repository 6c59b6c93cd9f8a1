"""What a served model answers: the work of each route, on checked texts, in the thread of a request."""

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import scipy.special

from jaxencoder.families.labels import label_names
from jaxencoder.inference.embed import TextEmbedder, embed, text_embedder
from jaxencoder.inference.fill_mask import FilledMask, fill_mask
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import DEFAULT_OPTIONS, EmbedOptions
from jaxencoder.inference.rerank import check_cross_encoder, score_pairs
from jaxencoder.inference.tokens import tokens
from jaxencoder.model.config import Role
from jaxencoder.model.cross_encoder import CrossEncoderConfig
from jaxencoder.model.similarity import unit
from jaxencoder.serving.engine import Engine
from jaxencoder.serving.errors import ServingError
from jaxencoder.serving.served import ServedModel, served
from jaxencoder.serving.token_ids import described_tokens
from jaxencoder.serving.truncation import TRUNCATE, Truncation, check_classified, check_embedded
from jaxencoder.tasks.classification import classify
from jaxencoder.tasks.classification.objective import ONE_CLASS, VALUE
from jaxencoder.tasks.running import row_length
from jaxencoder.tasks.token_classification.objective import HEAD
from jaxencoder.tasks.token_classification.predict import predict_tags
from jaxencoder.text.buckets import require_tokenizer, row_lengths
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

Kind = Literal["embedding", "sparse", "multi_vector", "reranker", "classifier", "tagger"]
ROLES: tuple[Role, ...] = get_args(Role)
NO_PROMPT = ""

# Masks of one text and results for each, which are compiled for at the start.
MOST_MASKS, MOST_FILLERS = 4, 8
MOST_NUMBERS = 4_000_000  # of a reply with a vector for each token: about 45 MB
_ONE_TEXT_AT_A_TIME = threading.Lock()  # for what does not run in the engine


class Score(NamedTuple):
    """A class and its probability, or a value and the name of the output."""

    label: str
    score: float


@dataclass(frozen=True, eq=False)
class Deployment:
    """A model under the name by which requests ask for it.

    All methods raise ValueError for texts and options that do not suit the model, and `ServingError` for a route of
    another kind of model.
    """

    name: str
    plain: OpenedModel  # which `model` runs in the engine
    engine: Engine
    default_prompt: str | None = None  # of requests that name none: a stored name or a text; None: the model's own

    def __post_init__(self) -> None:
        require_tokenizer(self.plain.tokenizer)

    @cached_property
    def kind(self) -> Kind:
        """What the model is for."""
        model = self.plain
        if model.sentence.sparse is not None:
            return "sparse"
        if model.multi_vector is not None:
            return "multi_vector" if model.multi_vector.is_only else "embedding"
        if HEAD in model.heads and model.labels:
            return "tagger"
        with contextlib.suppress(ValueError):
            check_cross_encoder(model)
            return "reranker"
        with contextlib.suppress(ValueError):
            classify.classifier_head(model)
            return "classifier"
        return "embedding"

    @property
    def fills_masks(self) -> bool:
        return "mlm_head" in (self.plain.generator or self.plain).params and self.kind == "embedding"

    @property
    def gives_sparse(self) -> bool:
        return self.kind == "sparse" or (self.kind == "embedding" and self.plain.multi_vector is not None)

    @property
    def tokenizer(self) -> Tokenizer:
        return require_tokenizer(self.plain.tokenizer)

    @property
    def max_length(self) -> int:
        """Maximum tokens of a text, or of a pair of texts."""
        return row_length(self.plain) if self.kind in ("reranker", "classifier") else self.plain.max_length

    @property
    def prompts(self) -> dict[str, str]:
        return dict(self.plain.sentence.prompts)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the outputs of a classifier, tagger or reranker."""
        if self.kind == "tagger":
            return self.plain.labels
        settings = {"num_labels": 1} if self.plain.published is None else self.plain.published.settings
        return classify.classifier_head(self.plain).names or label_names(settings) or ("LABEL_0",)

    @cached_property
    def model(self) -> ServedModel:
        """The model with an engine; scores of a cross-encoder are logits."""
        model = served(self.plain, self.engine)
        if self._activation is None:
            return model
        return replace(model, cross_encoder=replace(self._activation, activation="identity"))

    @cached_property
    def _from_left(self) -> ServedModel:
        """The model that drops the beginning of long texts."""
        model, queries = self.model, self.model.queries
        if queries is not None:
            tokenizer = require_tokenizer(queries.tokenizer).truncating("left")
            queries = replace(queries, tokenizer=tokenizer, base=queries)
        return replace(model, tokenizer=self.tokenizer.truncating("left"), queries=queries, base=model)

    @property
    def _description(self) -> str:
        article = "an" if self.kind[0] in "aeiou" else "a"
        return f"{self.name} is {article} {self.kind.replace('_', '-')} model"

    @property
    def _activation(self) -> CrossEncoderConfig | None:
        """What turns the logit of a cross-encoder into its score."""
        is_published = self.kind == "reranker" and self.plain.published is not None
        return self.plain.cross_encoder or (CrossEncoderConfig() if is_published else None)

    def embed(
        self,
        texts: Sequence[str],
        prompt: str | None = None,
        normalize: bool = True,
        dimensions: int | None = None,
        truncation: Truncation = TRUNCATE,
    ) -> np.ndarray:
        """Vectors float32 [N, dimensions]; `prompt` is the name of a stored one, None the default."""
        self._require(self.kind == "embedding", "an embedding model")
        options = self._options(prompt)
        model = self._truncating(truncation, texts, options)
        # One program for all requests: the steps that depend on the request follow here.
        vectors = embed(model, texts, replace(options, normalize=False))
        if dimensions is not None:
            if not 1 <= dimensions <= vectors.shape[1]:
                raise ValueError(f"dimensions is {dimensions}; this model's vectors have 1 to {vectors.shape[1]}")
            vectors = vectors[:, :dimensions]
        return np.ascontiguousarray(unit(vectors) if normalize else vectors, np.float32)

    def embed_tokens(
        self, texts: Sequence[str], prompt: str | None = None, truncation: Truncation = TRUNCATE
    ) -> list[np.ndarray]:
        """The vectors float32 [n, D] of each text's tokens: the last layer's, or a multi-vector model's own."""
        self._require(self.kind in ("embedding", "multi_vector"), "a model that embeds tokens")
        if self.kind == "multi_vector":
            if prompt not in (None, *ROLES):
                raise ValueError(f"prompt_name is {prompt!r}; this model has query and document")
            role = "query" if prompt == "query" else "document"
            matrices = self._truncating(truncation, texts, EmbedOptions(prompt=role)).embed_tokens(texts, role)
        else:
            options = self._options(prompt)
            embedder = text_embedder(self._truncating(truncation, texts, options), options)
            assert isinstance(embedder, TextEmbedder)
            hidden, mask = tokens(embedder.model, [embedder.prompt + text for text in texts])
            matrices = [vectors[is_token] for vectors, is_token in zip(hidden, mask, strict=True)]
        if (numbers := sum(matrix.size for matrix in matrices)) > MOST_NUMBERS:
            raise ValueError(f"the reply would have {numbers:,} numbers; send fewer or shorter texts")
        return matrices

    def embed_sparse(
        self, texts: Sequence[str], prompt: str | None = None, truncation: Truncation = TRUNCATE
    ) -> list[list[tuple[int, float]]]:
        """(token id, weight) of the active dimensions of each text, ascending by id."""
        self._require(self.gives_sparse, "a sparse model")
        if self.kind == "embedding":
            if prompt is not None:
                raise ValueError(f"prompt_name is {prompt!r}, but lexical weights have no prompts; leave it out")
            vectors = self._truncating(truncation, texts).lexical_weights(texts)
        else:
            options = self._options(prompt)
            vectors = embed(self._truncating(truncation, texts, options), texts, options)
        vectors.sort_indices()
        spans = zip(vectors.indptr[:-1], vectors.indptr[1:], strict=True)
        return [list(zip(vectors.indices[a:b].tolist(), vectors.data[a:b].tolist(), strict=True)) for a, b in spans]

    def similarity(
        self, source: str, texts: Sequence[str], prompt: str | None = None, truncation: Truncation = TRUNCATE
    ) -> list[float]:
        """The cosine of a text with each of others."""
        vectors = self.embed([source, *texts], prompt, truncation=truncation)
        return (vectors[1:] @ vectors[0]).tolist()

    def predict(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        raw_scores: bool = False,
        truncation: Truncation = TRUNCATE,
    ) -> list[list[Score]]:
        """The probabilities of the classes of each text or pair, as in `labels`; with `raw_scores` their logits."""
        self._require(self.kind in ("classifier", "reranker"), "a classifier")
        kind = classify.classifier_head(self.plain).kind
        scores = classify.score(self._truncating(truncation, texts, pairs=pairs), texts, pairs).scores
        if kind == VALUE:
            scores = self._activated(scores, raw_scores)
        elif not raw_scores:
            scores = scipy.special.softmax(scores, -1) if kind == ONE_CLASS else scipy.special.expit(scores)
        return [list(map(Score, self.labels, row)) for row in scores.tolist()]

    def score(
        self,
        queries: Sequence[str],
        texts: Sequence[str],
        raw_scores: bool = False,
        truncation: Truncation = TRUNCATE,
    ) -> list[float]:
        """How well each text answers its query."""
        self._require(self.kind in ("reranker", "multi_vector"), "a re-ranker")
        if self.kind == "reranker":
            model = self._truncating(truncation, queries, pairs=texts)
            return self._activated(score_pairs(model, queries, texts), raw_scores).tolist()
        config, unique = self.plain.multi_vector, list(dict.fromkeys(queries))
        assert config is not None
        vectors = self._truncating(truncation, unique, EmbedOptions(prompt="query")).embed_tokens(unique, "query")
        by_query = dict(zip(unique, vectors, strict=True))
        model = self._truncating(truncation, texts, EmbedOptions(prompt="document"))
        matrices = model.embed_tokens(texts, "document")
        # Not by `matrix_similarities`, which jax would compile for each number and length of texts.
        greatest = [(by_query[query] @ x.T).max(1) for query, x in zip(queries, matrices, strict=True)]
        return [float(x.mean() if config.mean else x.sum()) for x in greatest]

    def rerank(
        self, query: str, texts: Sequence[str], raw_scores: bool = False, truncation: Truncation = TRUNCATE
    ) -> list[float]:
        """How well each text answers the query."""
        return self.score([query] * len(texts), texts, raw_scores, truncation)

    def tag(self, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
        """The entities of each text: "type", "text", "start" and "end" in characters, and "probability"."""
        self._require(self.kind == "tagger", "a token classifier")
        records = [{"text": text} for text in texts]
        tagged = [record for chunk in predict_tags(self.model, records, "text") for record in chunk]
        self._require(all("entities" in record for record in tagged), "a model whose tags mark entities")
        return [record["entities"] for record in tagged]

    def fill_mask(self, text: str, k: int) -> list[list[FilledMask]]:
        """The k most probable tokens for each mask; see `Model.fill_mask`."""
        self._require(self.fills_masks, "a masked language model")
        if text.count(self.tokenizer.mask_token) > MOST_MASKS:
            raise ValueError(f"the text has more than {MOST_MASKS} masks; give fewer")
        if not 1 <= k <= MOST_FILLERS:
            raise ValueError(f"top_k is {k}; give 1 to {MOST_FILLERS}")
        with _ONE_TEXT_AT_A_TIME:
            return [fillers[:k] for fillers in fill_mask(self.plain.generator or self.plain, text, MOST_FILLERS)]

    def tokenize(
        self, texts: Sequence[str], special: bool = True, prompt: str | None = None
    ) -> list[list[dict[str, Any]]]:
        """The tokens of each text, after a prompt that is named; see `described_tokens`."""
        prefix = "" if prompt is None else self.plain.sentence.prompt(self._options(prompt).prompt)
        return described_tokens(self.tokenizer, [prefix + text for text in texts], special)

    def warm_up(self) -> None:
        """Run each program of the model once, so that `Engine.warm_up` knows them."""
        texts = ["text"]
        if self.kind == "tagger":
            self.tag(texts)
        elif self.kind in ("reranker", "classifier"):
            self.predict(texts)
            self.predict(texts, texts)
        elif self.kind == "sparse":
            for prompt in self._prompt_names:
                self.embed_sparse(texts, prompt)
        else:
            for prompt in ROLES if self.kind == "multi_vector" else self._prompt_names:
                self.embed_tokens(texts, prompt)
                if self.kind == "embedding":
                    self.embed(texts, prompt)
            if self.gives_sparse:
                self.embed_sparse(texts)
        if self.fills_masks:
            for length in row_lengths(self.max_length):
                for masks in (1, 2, MOST_MASKS):
                    self.fill_mask(" ".join([self.tokenizer.mask_token] * masks + ["a"] * (length - masks - 2)), 1)

    def _require(self, suits: bool, kind: str) -> None:
        if not suits:
            raise ServingError("Backend", f"{self._description}, not {kind}")

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of texts for which the model has a tower or table of its own."""
        return ROLES if self.plain.queries is not None or self.kind == "sparse" else ()

    @property
    def _prompt_names(self) -> list[str | None]:
        """What a request may name as its prompt; without a prompt, if the model embeds so."""
        tasks = self.plain.published and self.plain.published.family.tasks
        needs_prompt = bool(self.plain.tasks and tasks and tasks.is_required)
        return [*([] if needs_prompt else [None, NO_PROMPT]), *self.roles, *self.prompts]

    def _options(self, prompt: str | None) -> EmbedOptions:
        if prompt is None:
            return EmbedOptions(prompt=self.default_prompt)
        if prompt == NO_PROMPT or prompt in self.prompts or (prompt in self.roles and self.kind == "sparse"):
            return EmbedOptions(prompt=prompt)
        if prompt in self.roles:
            return EmbedOptions(role="query" if prompt == "query" else "document")
        names = ", ".join([*self.prompts, *self.roles]) or "none"
        raise ValueError(f"prompt_name is {prompt!r}, which this model does not have; its prompts: {names}")

    def _activated(self, scores: np.ndarray, raw_scores: bool) -> np.ndarray:
        if raw_scores:
            return scores
        if self._activation is not None:
            return self._activation.scores(scores)
        # A run of Classification gives the log-odds of its second class, or a value.
        return scores if classify.classifier_head(self.plain).kind == VALUE else scipy.special.expit(scores)

    def _truncating(
        self,
        truncation: Truncation,
        texts: Sequence[str],
        options: EmbedOptions = DEFAULT_OPTIONS,
        pairs: Sequence[str] | None = None,
    ) -> ServedModel:
        """The model that truncates as asked; see `check_embedded` and `check_classified`."""
        if self.kind in ("classifier", "reranker"):
            prefix = self._activation.prompt(None) if self._activation is not None and pairs is not None else ""
            check_classified(truncation, self.plain, [prefix + text for text in texts], pairs)
        elif truncation != TRUNCATE:
            check_embedded(truncation, text_embedder(self.model, options), texts)
        return self._from_left if truncation.side == "left" else self.model
