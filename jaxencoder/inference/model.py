"""A model opened for use: a checkpoint and how it runs on the devices of this process."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.inference import devices, global_tokens
from jaxencoder.inference.outputs import outputs
from jaxencoder.model.config import ComputeConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.sharding import MeshConfig, make_mesh
from jaxencoder.text import buckets


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
