"""A model opened for use: a checkpoint and how it runs on the devices of this process."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxencoder.adapters.lora import NAME as LORA
from jaxencoder.adapters.lora import merge_lora
from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.inference import devices, global_tokens
from jaxencoder.inference.padded import padded_rows
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.model.heads import MlmHead, apply_heads, first_tokens, output_table, vocabulary_scores
from jaxencoder.model.layers import apply
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.sharding import MeshConfig, make_mesh
from jaxencoder.tasks.running import NamedHeads, encoder_output
from jaxencoder.text import buckets

log = logging.getLogger(__name__)

_OUTPUTS = {"pooler": "pooled", "rtd_head": "rtd_logits", "nsp_head": "nsp_logits"}  # of heads; others give "logits"


@dataclass(frozen=True, eq=False)
class OpenedModel(Checkpoint):
    """A checkpoint that runs on this process's devices, in the dtype and with the kernels of `compute`."""

    kept_tasks: ClassVar[int] = 2
    row_step: ClassVar[int] = 4  # see `buckets.plan`

    queries: "OpenedModel | None" = None
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
        """Apply the encoder and the model's heads to padded rows.

        Args:
            token_ids: [B, T] int; [B, C, T] for a multiple-choice model.
            attention_mask: same shape, 1 at tokens and 0 at padding, which comes last; None: no padding.
            token_type_ids: same shape, int; None: all 0.
            global_attention_mask: same shape, 1 at tokens that attend to all tokens and are attended by all, for models
                with global tokens (Longformer). None: the first token for a text classifier (for a run's, if it pools
                that token), the question's tokens for a question-answering model, the choice's tokens for a
                multiple-choice model, none for other models.

        Returns:
            Float32 arrays, undefined at padding: "hidden" [B, T, D], the last layer, and the outputs of the model's
            heads: "mlm_logits" [B, T, V]; "pooled" [B, D]; "nsp_logits" [B, 2]; "rtd_logits" [B, T]; "logits"
            [B, labels] for texts, [B, T, labels] for tokens or [B, C] for choices; "start_logits" and "end_logits"
            [B, T].

        Raises:
            ValueError: arrays of another type or shape, ids that the model does not have, a mask with padding before
                tokens; a global_attention_mask for a model without global tokens; no such mask for a row that is not a
                question with its text, if the model requires one.
        """
        rows = padded_rows(self.config.model, token_ids, attention_mask, token_type_ids)
        ids, mask = rows["token_ids"], rows["segment_ids"]
        choices = ids.shape[:-1]
        rows = {name: x.reshape(-1, x.shape[-1]) for name, x in rows.items()}
        if self.config.model.global_tokens or global_attention_mask is not None:
            slots = global_tokens.model_global_slots(self, ids, mask, global_attention_mask)
            rows |= {} if slots is None else {"global_slots": slots}
        with devices.compute_context(self.mesh, self.compute):
            out = outputs(self.config.model, self.compute, tuple(self.heads.items()), self.device_params, rows)
        return {name: x.reshape(*choices, *x.shape[1:]) if len(choices) > 1 else x for name, x in out.items()}

    @cached_property
    def module(self) -> Encoder:
        """The encoder: module.apply({"params": params["encoder"]}, token_ids, segment_ids, positions) -> [B, T, D]."""
        return Encoder(self.config.model, self.compute)

    def tokenize(self, texts: Sequence[str], max_length: int | None = None) -> list[np.ndarray]:
        """Ids int32 [n] of each text with special tokens, n <= max_length; warns once if texts were truncated."""
        ids, truncated = buckets.tokenize(self.tokenizer, texts, self.limit(max_length))
        buckets.warn_truncated(truncated, len(ids), self.limit(max_length))
        return ids

    def run(
        self,
        function: Callable[[Params, Batch], jax.Array | tuple[jax.Array, ...]],
        ids: Sequence[np.ndarray],
        batch_tokens: int | None = None,
        max_length: int | None = None,
        extra: Callable[[buckets.BatchPlan], Batch] | None = None,
    ) -> Iterator[tuple[buckets.BatchPlan, np.ndarray]]:
        """Apply a compiled function to texts in packed rows, batch by batch and over all devices.

        Args:
            function: (params, batch) -> array, or tuple of arrays, with leading axis B. In a run that was trained with
                a global first token, the batch has "global_slots".
            ids: as from `tokenize`.
            batch_tokens, max_length: see `EmbedOptions`.
            extra: gives more arrays of a batch, with leading axis B.

        Yields:
            (the batch's texts and their positions in its rows, the function's values for the rows).
        """
        limit, tokenizer = self.limit(max_length), buckets.require_tokenizer(self.tokenizer)
        batch_tokens = default_batch_tokens() if batch_tokens is None else batch_tokens
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens is {batch_tokens}; give at least 1")
        pending = None
        lengths = [len(x) for x in ids]
        for plan in buckets.plan(lengths, buckets.row_lengths(limit), batch_tokens, self.row_step):
            rows: Batch = {name: jnp.asarray(x) for name, x in buckets.batch(ids, plan, tokenizer.pad_id).items()}
            if global_tokens.first_token_is_global(self):
                rows["global_slots"] = first_tokens(rows["segment_ids"], buckets.max_texts_per_row(plan.length))
            rows |= extra(plan) if extra else {}
            with devices.compute_context(self.mesh, self.compute):
                values = function(self.device_params, devices.place(rows, self.mesh))
            if pending is not None:  # read only once the next batch is dispatched, so that the device never waits
                yield pending[0], jax.device_get(pending[1])
            pending = plan, values
        if pending is not None:
            yield pending[0], jax.device_get(pending[1])

    def limit(self, max_length: int | None) -> int:
        """`max_length`, or the model's own for None; ValueError if the model cannot read that many tokens."""
        most = self.config.model.max_length
        if max_length is None:
            return self.max_length
        if max_length < 3:
            raise ValueError(f"max_length is {max_length}; give at least 3 tokens: [CLS], one token of the text, [SEP]")
        if max_length > most and self.config.model.positions == "learned":
            raise ValueError(f"max_length is {max_length}, but the model has only {most} positions; give fewer")
        return max_length

    def for_prompt(self, name: str | None) -> "OpenedModel":
        """The model to embed with under a stored prompt: with the adapter for its task, if the model has tasks.

        The last two of these models are kept (`kept_tasks`), for queries and documents in turn.

        Raises:
            ValueError: no prompt of a task, for a model that embeds nothing without one.
        """
        if not self.tasks:
            return self
        if name is None or name not in self.tasks:
            return self._without_task
        adapter, models = self.tasks[name], self._task_models
        if adapter.task not in models:
            adapted = {part: self.params[part] for part in adapter.params} | {LORA: adapter.params}
            params = merge_lora(adapter.lora, adapted)
            # Heads without an adapter, such as one that is tied to the token table, are the base's alone.
            heads = {name: head for name, head in self.heads.items() if name in params}
            params |= {"sentence": self.params["sentence"]} if "sentence" in self.params else {}
            published = self.published and self.published._replace(heads=heads)
            for task in list(models)[: 1 - self.kept_tasks]:
                del models[task]
            models[adapter.task] = replace(self, params=params, published=published, tasks={}, base=None)
        return models[adapter.task]

    @cached_property
    def _task_models(self) -> "dict[str, OpenedModel]":
        return {}

    @cached_property
    def _without_task(self) -> "OpenedModel":
        """The model itself; one warning, or a ValueError, says that it embeds without an adapter."""
        advice = f"give the name of a prompt: {', '.join(self.tasks)}"
        tasks = self.published and self.published.family.tasks
        if tasks and tasks.is_required:
            raise ValueError(f"this model embeds texts for a task only; {advice}")
        log.warning("Texts are embedded without an adapter for a task; %s.", advice)
        return self

    @cached_property
    def mesh(self) -> Mesh:
        """All devices of this process, over which rows are split."""
        return make_mesh(MeshConfig(), jax.local_devices())

    @cached_property
    def device_params(self) -> Params:
        """`params` on every device; arrays of a base model are shared with it."""
        shared = {}
        if self.base is not None:
            on_devices = jax.tree.leaves(self.base.device_params)
            shared = dict(zip(map(id, jax.tree.leaves(self.base.params)), on_devices, strict=True))
        return devices.replicate(self.params, self.mesh, self.compute.dtype, shared)


def default_batch_tokens() -> int:
    """Tokens of a batch that keep an accelerator busy, or whose activations stay in a CPU's cache."""
    return 1024 if jax.default_backend() == "cpu" else 8192


def outputs(
    encoder: EncoderConfig, compute: ComputeConfig, heads: NamedHeads, params: Params, rows: Batch
) -> dict[str, jax.Array]:
    """The last layer and the outputs of the heads for rows [B, T] of one document each; see `OpenedModel.__call__`."""
    # Two compiled programs, so that models with different heads share the encoder's.
    hidden = _hidden(encoder, compute, {"encoder": params["encoder"]}, rows)
    return _heads(encoder, heads, params, hidden, rows)


_hidden = jax.jit(encoder_output, static_argnums=(0, 1))


@partial(jax.jit, static_argnums=(0, 1))
def _heads(
    encoder: EncoderConfig, heads: NamedHeads, params: Params, hidden: jax.Array, rows: Batch
) -> dict[str, jax.Array]:
    out = {"hidden": hidden.astype(jnp.float32)}
    if "mlm_head" in params:
        x, bias = apply(MlmHead(encoder), params["mlm_head"], hidden)
        out["mlm_logits"] = vocabulary_scores(x, bias, output_table(params))
    for name, y in apply_heads(encoder, heads, params, hidden, rows, 1).items():
        y = y if dict(heads)[name].inputs == "tokens" else y[:, 0]
        if name == "span_head":
            out |= {"start_logits": y[..., 0], "end_logits": y[..., 1]}
        else:
            out[_OUTPUTS.get(name, "logits")] = y[..., 0] if name in ("rtd_head", "choice_head") else y
    return out
