"""A model opened for use: a checkpoint and how it runs on the devices of this process."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxencoder.config import RunConfig
from jaxencoder.families.checkpoint import Published
from jaxencoder.families.family import label_names
from jaxencoder.inference import (
    adapter,
    devices,
    embed,
    fill_mask,
    global_tokens,
    rerank,
    save,
    tokens,
)
from jaxencoder.inference import score as scoring
from jaxencoder.inference.fill_mask import Filled
from jaxencoder.inference.outputs import outputs
from jaxencoder.model.config import ComputeConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.sharding import MeshConfig, make_mesh
from jaxencoder.tasks.classification import classify
from jaxencoder.tasks.classification.classify import Classified, ScorePooling, Threshold
from jaxencoder.text import buckets
from jaxencoder.text.tokenizer import Tokenizer

_LABELLED = {"sequence_head", "token_head"}


@dataclass(frozen=True, eq=False)
class OpenedModel(Checkpoint):
    """A checkpoint that runs on this process's devices.

    Attributes:
        compute: dtype and kernels used here, independent of what the run was trained with.
        generator, base: as in Checkpoint, opened too.
    """

    generator: "OpenedModel | None" = None
    base: "OpenedModel | None" = field(default=None, repr=False)
    compute: ComputeConfig = field(default_factory=lambda: ComputeConfig(dtype="float32"), kw_only=True)

    def __call__(
        self,
        token_ids: jax.typing.ArrayLike,
        attention_mask: jax.typing.ArrayLike | None = None,
        token_type_ids: jax.typing.ArrayLike | None = None,
        global_attention_mask: jax.typing.ArrayLike | None = None,
    ) -> dict[str, jax.Array]:
        """The encoder and the heads that there are, on padded rows.

        Args:
            token_ids: [B, T] int; [B, C, T] for a model with a multiple-choice head.
            attention_mask: of the same shape, 1 at tokens and 0 at padding, which stands at the end; None: no padding.
            token_type_ids: of the same shape, int; None: all 0.
            global_attention_mask: of the same shape, 1 at tokens that see all and are seen by all, for a model that
                has such (Longformer). None: the first token for a classifier of texts (of a run, if it pools that), the
                question's for a question, the choice's for a choice, none for other models.

        Returns:
            Float32 arrays; what stands at padding means nothing. "hidden" [B, T, D], the last layer, and of those heads
            that the model has: "mlm_logits" [B, T, V]; "pooled" [B, D]; "nsp_logits" [B, 2]; "rtd_logits" [B, T];
            "logits" [B, labels] of texts, [B, T, labels] of tokens or [B, C] of choices; "start_logits" and
            "end_logits" [B, T].

        Raises:
            ValueError: a global_attention_mask of another shape or for a model without global tokens; none for a row
                that is no question with its text, if the model looks for one.
        """
        token_ids = jnp.asarray(token_ids, jnp.int32)
        mask = jnp.ones_like(token_ids) if attention_mask is None else jnp.asarray(attention_mask, jnp.int32)
        rows = {
            "token_ids": token_ids,
            "segment_ids": mask,
            "positions": jnp.broadcast_to(jnp.arange(token_ids.shape[-1], dtype=jnp.int32), token_ids.shape),
        }
        if token_type_ids is not None:
            rows["token_type_ids"] = jnp.asarray(token_type_ids, jnp.int32)
        choices = token_ids.shape[:-1]
        rows = {name: x.reshape(-1, x.shape[-1]) for name, x in rows.items()}
        if self.config.model.global_tokens or global_attention_mask is not None:
            slots = global_tokens.slots_of(self, token_ids, mask, global_attention_mask)
            rows |= {} if slots is None else {"global_slots": slots}
        with devices.in_use(self.mesh, self.compute):
            out = outputs(self.config.model, self.compute, tuple(self.heads.items()), self.placed, rows)
        return {name: x.reshape(*choices, *x.shape[1:]) if len(choices) > 1 else x for name, x in out.items()}

    @cached_property
    def module(self) -> Encoder:
        """The encoder: module.apply({"params": params["encoder"]}, token_ids, segment_ids, positions) -> [B, T, D]."""
        return Encoder(self.config.model, self.compute)

    @property
    def max_length(self) -> int:
        """Tokens of a text, special ones included, beyond which it is cut: as far as training has seen positions.

        A run's rotary positions carry on to the model's whole length; learned ones that no row reached are still noise.
        """
        length = self.config.model.max_length
        rotary_run = self.published is None and self.config.model.positions == "rotary"
        return length if rotary_run else min(length, max(p.data.row_length for p in self.config.phase_configs))

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
        long: Long = "truncate",
        stride: int | None = None,
        batch_tokens: int | None = None,
        threshold: Threshold | None = None,
        window_pooling: ScorePooling | None = None,
    ) -> list[Classified]:
        """What a classifier, of a run or published, predicts for each text, or pair of texts.

        Args:
            texts: any number, any lengths.
            pairs: the second text of each, for a model of pairs.
            long: what of a text with more tokens than the rows of the run, or the published model, hold: "truncate"
                reads its beginning, of a pair as in training, with one warning; "windows" reads all, in parts that
                overlap, whose probabilities (or values) are pooled. In a pair each part has the whole first text,
                unless that leaves less than a quarter of a row, and a part of the second.
            stride: tokens from the start of a window to the next one's; None: half of what a window has room for. With
                pairs a quarter of a row is the most that fits beside any first text.
            batch_tokens: as in `embed`. threshold: see `jaxencoder.tasks.classification.classify.thresholds`.
            window_pooling: as in `embed`, but none is learned: the mean of the windows' probabilities, by "length" (as
                None) or of all alike, the largest of each class ("max"; of one class for a text their sum is made 1
                again), or those of the first window.

        Returns:
            For each text (prediction, probability, probabilities by class); of a model of values the prediction is a
            number, probability nan and probabilities empty; of several classes the first two are lists.

        Raises:
            ValueError: no list of strings, no classifier, a setting of windows where texts are cut, a stride that
                leaves tokens out, or an unknown threshold.
        """
        return classify.classify(self, texts, pairs, long, stride, batch_tokens, threshold, window_pooling)

    def rerank(self, query: str, texts: Sequence[str], k: int | None = None) -> list[rerank.Ranked]:
        """The k texts (None: all) that answer a query best, by a run on pairs; see `jaxencoder.inference.rerank`."""
        return rerank.rerank(self, query, texts, k)

    def tokenize(self, texts: Sequence[str], max_length: int | None = None) -> list[np.ndarray]:
        """Ids int32 [n] of each text, special tokens included, n at most `max_length`; one warning if any was cut."""
        ids, cut = buckets.tokenize(self.tokenizer, texts, self.limit(max_length))
        buckets.warn_of_cuts(cut, len(ids), self.limit(max_length))
        return ids

    def run(
        self,
        function: Callable[[Params, Batch], jax.Array],
        ids: Sequence[np.ndarray],
        batch_tokens: int | None = None,
        max_length: int | None = None,
        extra: Callable[[buckets.Plan], Batch] | None = None,
    ) -> Iterator[tuple[buckets.Plan, np.ndarray]]:
        """Apply a compiled function to texts in packed rows, batch by batch and over all devices.

        Args:
            function: (params, batch) -> array with leading axis B.
            ids: of `tokenize`.
            extra: from where texts are to further arrays of the batch, with leading axis B.

        Returns:
            An iterator of (which texts are where in the batch's rows, what the function gives for the rows).
        """
        limit = self.limit(max_length)
        if batch_tokens is None:
            batch_tokens = devices.default_batch_tokens()
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens is {batch_tokens}; give at least 1")
        pending = None
        for plan in buckets.plan([len(x) for x in ids], buckets.row_lengths(limit), batch_tokens):
            rows = buckets.batch(ids, plan, self.tokenizer.pad_id)
            rows |= extra(plan) if extra else {}
            with devices.in_use(self.mesh, self.compute):
                values = function(self.placed, self.place(rows))
            if pending is not None:  # read only once the next batch is dispatched, so that the device never waits
                yield pending[0], np.asarray(pending[1])
            pending = plan, values
        if pending is not None:
            yield pending[0], np.asarray(pending[1])

    def place(self, rows: Batch) -> Batch:
        """A batch on the devices: its rows shared among them where they divide, otherwise whole on each."""
        return devices.place(rows, self.mesh)

    def limit(self, max_length: int | None) -> int:
        """`max_length` if the model can read so many tokens (ValueError if not), its own for None."""
        most = self.config.model.max_length
        if max_length is None:
            return self.max_length
        if max_length < 3:
            raise ValueError(f"max_length is {max_length}; give at least 3 tokens: [CLS], one of the text, [SEP]")
        if max_length > most and self.config.model.positions == "learned":
            raise ValueError(f"max_length is {max_length}, but the model has only {most} positions; give fewer")
        return max_length

    @cached_property
    def mesh(self) -> Mesh:
        """The devices of this process; rows are shared among them."""
        return make_mesh(MeshConfig(), jax.local_devices())

    @cached_property
    def placed(self) -> Params:
        """`params` on every device, a base's once; the encoder's kernels are cast as every call would cast them."""
        return devices.placed(self.params, self.mesh, self.compute.dtype, {} if self.base is None else self.base.arrays)

    @property
    def arrays(self) -> dict[int, jax.Array]:
        """The identity of each array in `params` -> that array on every device."""
        return dict(zip(map(id, jax.tree.leaves(self.params)), jax.tree.leaves(self.placed), strict=True))
