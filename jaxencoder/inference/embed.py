"""Sentence embeddings: one vector per text, in memory or from file to file in bounded memory.

A run pools by the mean unless its settings say otherwise, as in Reimers and Gurevych 2019 (Sentence-BERT,
arXiv:1908.10084).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse
from tqdm import tqdm

from jaxencoder.checkpoints.checkpoint import pooling_query
from jaxencoder.inference.devices import compute_context
from jaxencoder.inference.load import opened
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import COLUMN, DEFAULT_OPTIONS, EmbedOptions
from jaxencoder.inference.sparse import SparseEmbedder, check_options, sparse_embedder, token_weights
from jaxencoder.inference.token_vectors import TokenEmbedder, gives_token_vectors, token_embedder
from jaxencoder.inference.windows import WindowPooler, run_windows
from jaxencoder.inference.writers import check_extension, open_writer
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.heads import pool
from jaxencoder.model.sentence import SentenceConfig, finish_vectors, sentence_vectors
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.tasks.records import check_new_fields, chunks
from jaxencoder.tasks.running import encoder_output
from jaxencoder.text import buckets
from jaxencoder.text.config import WindowPooling
from jaxencoder.text.sources import Record, read
from jaxencoder.text.tokenizers.encoding import as_list
from jaxencoder.text.windows import GROUP_TOKENS, text_room, text_windows

T = TypeVar("T")

_SPARSE_TEXTS = 1024  # whose sparse vectors are in memory at once


def embed(model: OpenedModel, texts: Sequence[str], options: EmbedOptions = DEFAULT_OPTIONS) -> Any:
    """Vectors of texts, [N, dimensions] float32, of a sparse model a csr_array; see `Model.embed`."""
    if gives_token_vectors(model, options):
        raise ValueError("this model gives a vector for each token, none for a text; use embed_tokens")
    embedder = text_embedder(model, options)
    texts = as_list(texts)
    vectors, truncated = embedder(texts)
    buckets.warn_truncated(truncated, len(texts), embedder.limit)
    return vectors


def embed_source(
    model: OpenedModel, records: Iterable[Record], text_field: str = "text", options: EmbedOptions = DEFAULT_OPTIONS
) -> Iterator[tuple[list[Record], Any]]:
    """Yield chunks of records with their vectors [n, dimensions] float32, in order and in bounded memory.

    The vectors of a model that gives one for each token are n matrices, as of `embed_tokens`; those of a sparse model
    are a csr_array.
    """
    embedder = text_embedder(model, options)
    truncated = count = 0
    with tqdm(unit=" texts", desc="Embedding", disable=None) as bar:
        for chunk in text_chunks(records, lambda record: record[text_field], embedder):
            vectors, chunk_truncated = embedder([record[text_field] for record in chunk], bar.update)
            yield chunk, vectors
            truncated, count = truncated + chunk_truncated, count + len(chunk)
    buckets.warn_truncated(truncated, count, embedder.limit)


def text_chunks(
    items: Iterable[T], text: Callable[[T], str], embedder: "TextEmbedder | TokenEmbedder | SparseEmbedder"
) -> Iterator[list[T]]:
    """The items in chunks whose texts are embedded together, in bounded memory.

    They are smaller for sparse vectors, most of whose entries may be active.
    """
    for chunk in chunks(items, lambda item: len(text(item))):
        size = _SPARSE_TEXTS if isinstance(embedder, SparseEmbedder) else len(chunk)
        yield from (chunk[start : start + size] for start in range(0, len(chunk), size))


def embed_file(
    run: str | Path | OpenedModel,
    input: str,
    output: str | Path,
    text_field: str = "text",
    options: EmbedOptions = DEFAULT_OPTIONS,
) -> int:
    """Embed every text of a source into a file, which appears once it is complete; return the number of texts.

    Args:
        run: anything that `load` takes, or an open model.
        input: source of records, as in `jaxencoder.text.sources`.
        output: .parquet or .jsonl (the records' fields and "embedding"), or .npy ([N, D] float32, in order); for a
            model that gives a vector for each token, .npz ("vectors" [all tokens, D] and "lengths" [N]) in place of
            .npy. Of a sparse model "embedding" is a list of {"token", "weight"}, greatest first, without .npy.

    Raises:
        ValueError: an unknown extension, a broken source, or records that do not form one table.
        OSError: the source cannot be read, or the output cannot be written.
    """
    count = 0
    items = {COLUMN: {"token": "", "weight": 0.0}}  # of sparse vectors
    with open_writer(Path(output), items=items) as write:  # checked before the model is loaded, which takes long
        records = read(input, text_field=text_field)
        model = opened(run)
        check_extension(Path(output), gives_token_vectors(model, options), model.sentence.sparse is not None)
        for chunk, vectors in embed_source(model, records, text_field, options):
            if isinstance(vectors, sparse.csr_array):
                check_new_fields(chunk, (COLUMN,))
                weights = token_weights(model, vectors)
                chunk, vectors = [x | {COLUMN: y} for x, y in zip(chunk, weights, strict=True)], None
            write(chunk, vectors)
            count += len(chunk)
    return count


@dataclass(frozen=True)
class TextEmbedder:
    """A model and its resolved options: texts to vectors."""

    model: OpenedModel
    options: EmbedOptions
    settings: SentenceConfig
    prompt: str  # put before each text
    skip: int | None  # tokens before the text, with [CLS] and the prompt, that are not pooled
    limit: int  # maximum tokens of a text or window
    window_pooling: WindowPooling | None  # None where long texts are truncated

    def __call__(
        self, texts: Sequence[str], progress: Callable[[int], object] = lambda number: None
    ) -> tuple[np.ndarray, int]:
        """Return vectors [N, dimensions] float32, and how many texts were truncated."""
        if (windows := self.options.windows) and self.window_pooling not in (None, "first"):
            return self._windows(texts, windows.stride, self.window_pooling, progress), 0
        ids, truncated = buckets.tokenize(self.model.tokenizer, texts, self.limit, self.prompt)
        size = self.settings.size(self.model.config.model.hidden_size)
        vectors = np.zeros((len(ids), min(size, self.settings.dimensions or size)), np.float32)
        for plan, values in self.model.run(self._function(windowed=False), ids, self.options.batch_tokens, self.limit):
            vectors[plan.texts] = values[plan.row, plan.segment]
            progress(len(plan.texts))
        return vectors, truncated if self.window_pooling is None else 0

    def _windows(
        self, texts: Sequence[str], stride: int | None, pooling: WindowPooling, progress: Callable[[int], object]
    ) -> np.ndarray:
        """Return vectors [N, dimensions] float32 of texts read completely."""
        model, options, skip = self.model, self.options, self.skip or 0
        texts = as_list(texts)
        windows = text_windows(buckets.require_tokenizer(model.tokenizer), texts, self.limit, stride, self.prompt)
        size = len(self.settings.pooling) * model.config.model.hidden_size
        pooler = WindowPooler(len(texts), size, pooling, skip)
        function = self._function(windowed=True)
        runs = run_windows(model, function, windows, GROUP_TOKENS, options.batch_tokens, self.limit, skip)
        for group, plan, values in runs:
            for i, row, segment in zip(plan.texts, plan.row, plan.segment, strict=True):
                pooler.add(group[i], values[row, segment])
            progress(sum(group[i].is_last for i in plan.texts))
        padded = np.pad(pooler.vectors, ((0, buckets.padded_size(len(texts)) - len(texts)), (0, 0)))
        with compute_context(model.mesh, model.compute):
            return np.asarray(_finished(self.settings, model.device_params.get("sentence", {}), padded))[: len(texts)]

    def _function(self, windowed: bool) -> Callable[[Params, Batch], jax.Array]:
        return partial(_pooled, self.model.config.model, self.model.compute, self.settings, self.skip, windowed)


def text_embedder(model: OpenedModel, options: EmbedOptions) -> "TextEmbedder | TokenEmbedder | SparseEmbedder":
    """Check options against a model, or its tower for texts of their role, and fill in its defaults."""
    check_options(model, options)
    default_role = model.sentence.default_role
    if model.queries is not None and default_role and options.role_of_texts(default_role) == "query":
        model = model.queries
    if gives_token_vectors(model, options):
        return token_embedder(model, options)
    if model.sentence.sparse is not None:
        return sparse_embedder(model, options)
    settings = model.sentence_config(options.pooling, options.normalize, options.dimensions)
    window_pooling = None
    if options.windows is not None:
        learned = settings.pooling == ("learned",)
        window_pooling = options.windows.pooling or ("learned" if learned else "length")
        if window_pooling == "learned" and not learned:
            problem = f"window pooling is 'learned', but pooling is {' and '.join(settings.pooling)}"
            raise ValueError(f"{problem}; use it with pooling 'learned', in a run that has learned one")
    limit, prompt = model.limit(options.max_length), settings.prompt(options.prompt)
    model = model.for_prompt(settings.prompt_name(options.prompt))
    skip = None
    if prompt:
        tokenizer = buckets.require_tokenizer(model.tokenizer)
        ids = tokenizer.encode_batch([prompt])[0].ids
        text_room(limit, len(ids), prompt)  # refuses a prompt that leaves none
        skip = None if settings.include_prompt else len(ids) - int(ids[-1] in tokenizer.special_ids)
    settings = replace(settings, prompts=(), default_prompt=None)  # other prompts need no other program
    return TextEmbedder(model, options, settings, prompt, skip, limit, window_pooling)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _pooled(
    encoder: EncoderConfig,
    compute: ComputeConfig,
    settings: SentenceConfig,
    skip: int | None,
    windowed: bool,
    params: Params,
    rows: Batch,
) -> jax.Array:
    """One vector per text of each packed row: [B, E, dimensions].

    Windows give the poolings before modules: [B, E, P * D]. Learned pooling appends one number, the logarithm of the
    sum of the tokens' weights, by which windows are combined.
    """
    x = encoder_output(encoder, compute, params, rows)  # [B, T, D]
    segment_ids, max_texts, query = rows["segment_ids"], buckets.max_texts_per_row(x.shape[1]), pooling_query(params)
    if not windowed:
        return sentence_vectors(settings, params.get("sentence", {}), x, segment_ids, max_texts, skip, query)
    parts = []
    for method in settings.pooling:
        # The first and last token are the window's; other methods pool only the tokens that belong to the window.
        ends = method in ("cls", "lasttoken")
        ids, skipped = (segment_ids, skip) if ends else (rows["kept_ids"], None)
        parts.append(pool(x, ids, max_texts, method, query, skipped))
    if settings.pooling == ("learned",):
        member = rows["kept_ids"][:, None, :] == jnp.arange(1, max_texts + 1)[:, None]  # [B, E, T]
        scores = (x.astype(jnp.float32) @ query)[:, None, :]  # [B, 1, T]
        parts.append(jax.nn.logsumexp(scores, axis=-1, where=member, keepdims=True))
    return jnp.concatenate(parts, axis=-1)


_finished = jax.jit(finish_vectors, static_argnums=0)
