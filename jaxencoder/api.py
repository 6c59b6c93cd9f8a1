"""The public interface: `load` opens a model, and `Model` is what users hold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from scipy import sparse

from jaxencoder.checkpoints import opening, save
from jaxencoder.inference import embed, fill_mask, m3, rerank, token_vectors, tokens
from jaxencoder.inference import load as loading
from jaxencoder.inference import score as scoring
from jaxencoder.inference import sparse as sparse_vectors
from jaxencoder.inference.fill_mask import FilledMask
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.inference.score import PseudoLikelihood
from jaxencoder.inference.tokens import TokenChunk
from jaxencoder.model.config import Pooling, Role
from jaxencoder.model.sparse import SparseVectors
from jaxencoder.tasks.classification import classify
from jaxencoder.tasks.classification.classify import Prediction, Threshold
from jaxencoder.text.config import WindowConfig


@dataclass(frozen=True, eq=False)
class Model(OpenedModel):
    """An encoder with its tokenizer, ready for use.

    Each method applies a function of `jaxencoder.inference`. `params`, `module` and `tokenizer` are the model's pure
    parts, for your own JAX code. Calling the model applies the encoder and its heads to padded rows of token ids.
    """

    def embed(
        self,
        texts: Sequence[str],
        pooling: Pooling | tuple[Pooling, ...] | None = None,
        normalize: bool | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        windows: WindowConfig | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
    ) -> Any:
        """Embed texts: one vector per text.

        Published models use no global tokens here, as in sentence-transformers; to pool a global [CLS], call the model
        with a global_attention_mask. A run that was trained with a global [CLS] uses it.

        Args:
            texts: any number, any lengths. Those longer than `max_length` are truncated, with one warning, or read in
                `windows`.
            pooling, normalize, prompt, dimensions, windows, batch_tokens, max_length: see `EmbedOptions`.

        Returns:
            [N, dimensions] float32, in the order of `texts`; of a sparse model (SPLADE) a csr_array of scipy [N, V].

        Raises:
            ValueError: not a list of strings, an unknown pooling, pooling "learned" in a run that has learned none, an
                unknown or too long prompt, more dimensions than the vectors have, or a stride that skips tokens.
        """
        options = EmbedOptions(pooling, normalize, prompt, dimensions, windows, batch_tokens, max_length)
        return embed.embed(self, texts, options)

    def embed_sparse(
        self,
        texts: Sequence[str],
        role: Role = "document",
        max_active_dims: int | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
    ) -> SparseVectors:
        """Embed texts by a sparse model, such as SPLADE: a weight for each token of the vocabulary.

        Args:
            texts: any number, any lengths. Those longer than `max_length` are truncated, with one warning.
            role: "query" or "document", which may differ in prompt, and in a table that gives the queries' weights.
            max_active_dims, batch_tokens, max_length: see `EmbedOptions`.

        Returns:
            float32 [N, V], in the order of `texts`. The similarity of two vectors is their dot product, unless
            `sentence.similarity` says otherwise.

        Raises:
            ValueError: not a list of strings, or a model without such vectors.
        """
        if self.sentence.sparse is None:
            raise ValueError("this model gives no sparse vectors; use embed")
        options = EmbedOptions(
            prompt=role, max_active_dims=max_active_dims, batch_tokens=batch_tokens, max_length=max_length
        )
        return embed.embed(self, texts, options)

    def token_weights(self, vectors: SparseVectors, k: int | None = None) -> list[list[dict[str, Any]]]:
        """The tokens of sparse vectors [N, V] and their weights, for each {"token", "weight"}, the k greatest first."""
        return sparse_vectors.token_weights(self, vectors, k)

    def embed_tokens(
        self,
        texts: Sequence[str],
        role: Role = "document",
        pool_factor: float | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
    ) -> list[np.ndarray]:
        """Embed texts by a multi-vector model, such as ColBERT: a vector for each token.

        Args:
            texts: any number, any lengths. Those longer than the model's queries or documents are truncated, with one
                warning.
            role: "query" or "document", which differ in prompt, length, expansion and skipped tokens.
            pool_factor, batch_tokens, max_length: see `EmbedOptions`.

        Returns:
            For each text [n, D] float32, in the order of `texts`; see `max_similarities`.

        Raises:
            ValueError: not a list of strings, or a model without such vectors.
        """
        options = EmbedOptions(prompt=role, batch_tokens=batch_tokens, max_length=max_length, pool_factor=pool_factor)
        return token_vectors.embed_tokens(self, texts, options)

    def lexical_weights(self, texts: Sequence[str], batch_tokens: int | None = None) -> sparse.csr_array:
        """Weigh the tokens of texts by bge-m3: float32 [N, V], 0 for tokens that a text does not have.

        Args:
            texts: those longer than `max_length` are truncated, with one warning.
            batch_tokens: see `EmbedOptions`.

        Raises:
            ValueError: not a list of strings, or a model without such weights.
        """
        return m3.lexical_weights(self, texts, batch_tokens)

    def hybrid_scores(
        self,
        queries: Sequence[str],
        texts: Sequence[str],
        weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
        batch_tokens: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Compare each query with its text by bge-m3.

        Args:
            queries, texts: N of each.
            weights: of the three similarities in their mean.
            batch_tokens: see `EmbedOptions`.

        Returns:
            Float64 [N] each: "dense", the cosine of the texts' vectors; "lexical", the sum of the products of their
            tokens' weights; "tokens", `max_similarities`; and "hybrid", the weighted mean of these.

        Raises:
            ValueError: not lists of strings of one length, or a model without these three.
        """
        return m3.hybrid_scores(self, queries, texts, weights, batch_tokens)

    def max_similarities(self, queries: Sequence[np.ndarray], documents: Sequence[np.ndarray]) -> np.ndarray:
        """The similarities float32 [Q, N] of queries and documents by the vectors of `embed_tokens`.

        For each query, the sum over its vectors of the greatest dot product with a document's (MaxSim), or the mean
        of these, depending on the model. Exact, in blocks of bounded memory.

        Raises:
            ValueError: a model without such vectors, or vectors that are not finite.
        """
        return token_vectors.similarities(self, queries, documents)

    def tokens(
        self,
        texts: Sequence[str],
        windows: WindowConfig | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
        offsets: bool = False,
    ) -> tuple[np.ndarray, ...]:
        """Embed every token of texts in context.

        Args:
            texts, batch_tokens, max_length: as for `embed`.
            windows: as for `embed`, without a pooling. A token's vector comes from the window with the most context.
            offsets: also return the characters of each token.

        Returns:
            (hidden [B, T, D] float32, mask [B, T] bool): T is the number of tokens of the longest text, special tokens
            included. The mask is True at tokens; hidden is 0 elsewhere. With `offsets` also int32 [B, T, 2], [start,
            end) in characters of the text, (0, 0) for special tokens. For very long texts use `token_chunks`.

        Raises:
            ValueError: not a list of strings, or a stride that skips tokens.
        """
        return tokens.tokens(self, texts, windows, batch_tokens, max_length, offsets)

    def token_chunks(
        self,
        texts: Sequence[str],
        stride: int | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
    ) -> Iterator[TokenChunk]:
        """Yield what `tokens` returns with windows, chunk by chunk, in memory independent of the length of a text.

        Args:
            stride: see `WindowConfig`.

        Yields:
            (the text's index, ids [n], offsets [n, 2], hidden [n, D]). Errors are those of `tokens`, at the first step.
        """
        return tokens.token_chunks(self, texts, stride, batch_tokens, max_length)

    def fill_mask(self, text: str, k: int = 5) -> list[list[FilledMask]]:
        """Predict the k most probable tokens for each mask in a text.

        Args:
            text: contains the tokenizer's mask token ([MASK] or <mask>) at least once.

        Returns:
            For each mask a list of (token, probability, sentence), best first; the sentence has that mask filled.

        Raises:
            ValueError: no mask, one beyond the model's length, or a model without a masked-language-model head.
        """
        return fill_mask.fill_mask(self.generator or self, text, k)

    def score(self, texts: Sequence[str], whole_words: bool = True) -> list[PseudoLikelihood]:
        """Compute the pseudo-log-likelihood of texts, with every token masked in turn.

        Args:
            texts: those longer than `max_length` are truncated, with one warning.
            whole_words: with a token also mask the later pieces of its word, which would give it away.

        Returns:
            For each text (log_likelihood in nats, tokens), and its .perplexity; special tokens do not count.

        Raises:
            ValueError: not a list of strings, or a model without a masked-language-model head.
        """
        return scoring.score(self.generator or self, texts, whole_words)

    def classify(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        windows: WindowConfig | None = None,
        batch_tokens: int | None = None,
        threshold: Threshold | None = None,
    ) -> list[Prediction]:
        """The prediction of a text classifier for each text, or pair of texts.

        Args:
            texts: any number, any lengths.
            pairs: the second text of each, for a model of pairs.
            windows: how to split texts longer than the rows of training; None truncates them, with one warning.
            batch_tokens: as in `embed`.
            threshold: with several classes per text, the probability from which a text has a class; see
                `jaxencoder.tasks.classification.classify.thresholds`.

        Returns:
            For each text (prediction, probability, probabilities by class). For values the prediction is a number,
            probability nan and probabilities empty; with several classes per text the first two are lists.

        Raises:
            ValueError: as `jaxencoder.tasks.classification.classify.classify`.
        """
        return classify.classify(self, texts, pairs, windows, batch_tokens, threshold)

    def rerank(
        self, query: str, texts: Sequence[str], k: int | None = None, prompt: str | None = None
    ) -> list[rerank.Ranked]:
        """Sort texts by how well they answer a query, with a cross-encoder or a multi-vector model.

        A cross-encoder is a published one, or a run trained on pairs.

        Args:
            k: number of texts to return; None: all.
            prompt: put before the query, a text or the name of a stored one; None: the model's default prompt.

        Returns:
            (index in `texts`, score) of the k best texts, best first. A published model's score has the activation that
            its folder names, by default a sigmoid, as in sentence-transformers.

        Raises:
            ValueError: not a list of strings, or a model that does not score pairs.
        """
        return rerank.rerank(self, query, texts, k, prompt)

    def with_adapter(self, folder: str | Path) -> "Model":
        """This model with an adapter. The model itself does not change, and arrays without an adapter are shared.

        A run's adapter (`jaxencoder convert RUN FOLDER --to adapter`) gives the outputs of the run, with heads.
        PEFT's adapters may be LoRA, rank-stabilized LoRA or DoRA, with the heads of their modules_to_save. The result
        has none of the model's own adapters for tasks.

        Args:
            folder: the adapter's folder, or its name on the Hugging Face hub.

        Raises:
            ValueError: the adapter was trained on another model or other weights, or is of an unsupported kind.
            OSError: the folder cannot be read.
        """
        return opening.with_adapter(self, folder)

    def save(
        self, folder: str | Path, format: Literal["transformers", "sentence-transformers"] = "transformers"
    ) -> None:
        """Write a folder that transformers loads: config.json, model.safetensors and the tokenizer.

        A fine-tuned run is written as transformers' class for its task, with the names of its labels. A head that this
        class would compute differently is left out, with a warning that says why.

        Args:
            folder: created if missing.
            format: "sentence-transformers" adds its modules and leaves out the encoder's heads, but writes a published
                cross-encoder as a CrossEncoder. To write another pooling or normalization, replace the settings first:
                dataclasses.replace(model, sentence=...).

        Raises:
            ValueError: no published family has this architecture, or sentence-transformers lacks the pooling.
            OSError: the folder cannot be written.
        """
        save.save(self, Path(folder), format)


def load(
    name_or_folder: str | Path,
    dtype: Literal["float32", "bfloat16"] | None = None,
    step: int | Literal["latest", "best"] = "latest",
    revision: str | None = None,
) -> Model:
    """Open a model.

    On a CPU, call `jaxencoder.training.memory.keep_freed_memory` first, as the command line does: embedding is then
    about 10% faster.

    Args:
        name_or_folder: folder written by `jaxencoder train`, transformers, sentence-transformers or PEFT, or the name
            of a model on the Hugging Face hub, such as "sentence-transformers/all-MiniLM-L6-v2". An adapter is added to
            the base model that it names.
        dtype: of activations and matrix products. None: float32 on a CPU and on GPUs without bfloat16 (before Ampere),
            elsewhere the dtype of the run's training.
        step: checkpoint of a run: its step, "latest", or "best" by the run's `training.best_metric`.
        revision: branch, tag or commit of a model on the hub; None: its main branch.

    Raises:
        FileNotFoundError: no such folder or name, or no checkpoint in it.
        ValueError: not a model, one that cannot be loaded, a damaged one, or a revision of a local folder.
    """
    return cast(Model, loading.load(name_or_folder, dtype, step, revision, Model))
