"""The public interface to a model: `load` opens one, and `Model` is what users hold."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from jaxencoder.checkpoints import adapter, save
from jaxencoder.inference import embed, fill_mask, rerank, tokens
from jaxencoder.inference import load as opening
from jaxencoder.inference import score as scoring
from jaxencoder.inference.fill_mask import Filled
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.score import Scored
from jaxencoder.inference.tokens import TokenChunk
from jaxencoder.inference.windows import Long, WindowPooling
from jaxencoder.model.heads import Pooling
from jaxencoder.tasks.classification import classify
from jaxencoder.tasks.classification.classify import Prediction, Threshold
from jaxencoder.text.window_config import WindowConfig


@dataclass(frozen=True, eq=False)
class Model(OpenedModel):
    """An encoder with its tokenizer, ready for use. Each method is a thin wrapper of a function in `inference`.

    `params`, `module` and `tokenizer` are its pure parts, for use with your own JAX code. Calling the model applies the
    encoder and its heads to padded rows of token ids.
    """

    def embed(
        self,
        texts: Sequence[str],
        pooling: Pooling | tuple[Pooling, ...] | None = None,
        normalize: bool | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
        long: Long = "truncate",
        stride: int | None = None,
        window_pooling: WindowPooling | None = None,
    ) -> np.ndarray:
        """One vector for each text.

        Of a published model no token is global here: a vector is what sentence-transformers makes of it. To pool a
        global [CLS], call the model with a global_attention_mask. A run that was trained with such a one has it here.

        Args:
            texts: any number, any lengths; those longer than max_length are cut, with one warning.
            pooling: the first token's vector, the mean or the largest value over all tokens, the run's own learned
                pooling, or another of `jaxencoder.model.heads.pool`; several stand one after the other. None, here and
                below: as `self.sentence` has it.
            normalize: scale each vector to length 1, so that a dot product is a cosine.
            prompt: name of a stored prompt or, with a space or a mark in it, the text itself to put before each text;
                "" for none.
            dimensions: keep so many numbers of each vector (Matryoshka), before it is normalised.
            batch_tokens: tokens computed at once, padding included; memory grows with it. None: 1024 on a CPU, whose
                cache holds what they need, and 8192 elsewhere.
            max_length: tokens, `self.max_length` if None.
            long: what of texts that are longer: "truncate" reads their beginning, with one warning; "windows" reads
                all, in parts that overlap. A window is pooled over the tokens of which it knows most (or has its own
                first or last one), as if they were a text of their own: weightedmean counts their places from 1 in
                each window, mean_sqrt_len divides by the root of their number. Then the windows of a text are pooled,
                and then comes what follows pooling. A prompt stands in each, and is pooled once.
            stride: tokens from the start of a window to the next one's; None: half of what a window has room for.
            window_pooling: "length", the mean by these tokens: with mean pooling that of all tokens of the text, each
                once; "mean", all windows alike; "max", the largest values; "first", the first window alone, which is
                truncation; "learned", the run's own learned pooling over these tokens of all windows. None: "learned"
                with pooling "learned", else "length".

        Returns:
            [N, dimensions] float32, in the order of `texts`.

        Raises:
            ValueError: no list of strings, an unknown pooling, `learned` in a run that has not learned any, an unknown
                or too long prompt, more dimensions than there are, a setting of windows where texts are cut, or a
                stride that leaves tokens out.
        """
        how = (pooling, normalize, prompt, dimensions, batch_tokens, max_length, long, stride, window_pooling)
        return embed.embed(self, texts, *how)

    def tokens(
        self,
        texts: Sequence[str],
        batch_tokens: int | None = None,
        max_length: int | None = None,
        long: Long = "truncate",
        stride: int | None = None,
        offsets: bool = False,
    ) -> tuple[np.ndarray, ...]:
        """Contextual embeddings of every token.

        Args:
            texts, batch_tokens, max_length, long, stride: as for `embed`; of windows, the one with most around a token
                gives its vector, the first special tokens are the first window's and the last ones the last one's.
            offsets: give the characters too.

        Returns:
            (hidden [B, T, D] float32, mask [B, T] bool, True at tokens): T is the longest text's number of tokens,
            special ones included; hidden is 0 where there is none. With `offsets` also int32 [B, T, 2], the characters
            [start, end) of the original text that each token stands for, (0, 0) for special tokens. All is as long as
            the longest text: `token_chunks` reads a book.

        Raises:
            ValueError: no list of strings, an unknown `long`, a stride where texts are cut or that leaves tokens out.
        """
        return tokens.tokens(self, texts, batch_tokens, max_length, long, stride, offsets)

    def token_chunks(
        self,
        texts: Sequence[str],
        stride: int | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
    ) -> Iterator[TokenChunk]:
        """What `tokens` gives with long="windows", a piece of a text at a time, in memory that does not grow with it.

        Returns:
            An iterator of (text number, ids [n], offsets [n, 2], hidden [n, D]), whose first step raises what `tokens`
            raises.
        """
        return tokens.token_chunks(self, texts, stride, batch_tokens, max_length)

    def fill_mask(self, text: str, k: int = 5) -> list[list[Filled]]:
        """The k most probable tokens for each mask in a text.

        Args:
            text: holds the tokenizer's mask token ([MASK] or <mask>) at least once.
            k: how many.

        Returns:
            For each mask a list of (token, probability, sentence), best first; the sentence has that mask filled.

        Raises:
            ValueError: no mask, one too far into a long text, or a run without a masked-language-model head.
        """
        return fill_mask.fill_mask(self.generator or self, text, k)

    def score(self, texts: Sequence[str], whole_words: bool = True) -> list[Scored]:
        """How probable the model finds each text: its pseudo-log-likelihood, every token hidden in turn.

        Args:
            texts: any number; those longer than `self.max_length` are cut, with one warning.
            whole_words: hide with a token the later pieces of its word too, which would give it away.

        Returns:
            For each text (log_likelihood in nats, tokens), and its .perplexity; special tokens do not count.

        Raises:
            ValueError: no list of strings, or a run without a masked-language-model head.
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

    def rerank(self, query: str, texts: Sequence[str], k: int | None = None) -> list[rerank.Ranked]:
        """The k texts (None: all) that answer a query best, by a run on pairs; see `jaxencoder.inference.rerank`."""
        return rerank.rerank(self, query, texts, k)

    def with_adapter(self, folder: str | Path) -> "Model":
        """This model with an adapter, ours or PEFT's; the model itself stays, and what is not adapted is shared.

        A run's adapter (`jaxencoder convert RUN FOLDER --to adapter`) gives what the run gives, heads included. One of
        PEFT brings LoRA, also rank-stabilised or DoRA, and the heads of its modules_to_save.

        Args:
            folder: that holds it, or its name on the Hugging Face hub.

        Raises:
            ValueError: it was trained on another model or other weights, or holds what cannot be read.
            OSError: the folder cannot be read.
        """
        return adapter.with_adapter(self, folder)

    def save(self, folder: str | Path, format: Literal["hf", "sentence-transformers"] = "hf") -> None:
        """Write a folder that transformers loads: config.json, model.safetensors and the tokenizer.

        What a run was fine-tuned for is a class of its own there, with the names of its labels. A head that the
        family's class would compute otherwise is left out, with one warning that says why.

        Args:
            folder: created when missing.
            format: "sentence-transformers" adds its modules and leaves the encoder's heads out. To write another
                pooling or normalisation, give the model other settings: dataclasses.replace(model, sentence=...).

        Raises:
            ValueError: no published family has this architecture, or sentence-transformers not the pooling.
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
    return _as_model(opening.load(name_or_folder, dtype, step, revision))


def _as_model(opened: OpenedModel) -> Model:
    """The same model, its generator and its base with the methods that users call."""
    values = {part.name: getattr(opened, part.name) for part in dataclasses.fields(opened)}
    return Model(**{name: _as_model(x) if isinstance(x, OpenedModel) else x for name, x in values.items()})
