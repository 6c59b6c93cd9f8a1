"""The encoder: embeddings, then one scan over the repeating pattern of layers.

Post-norm is BERT's x = norm(x + f(x)); pre-norm is x = x + f(norm(x)) with one norm after the last layer
(Xiong et al. 2020, arXiv:2002.04745); sandwich norm also normalizes f's output (Ding et al. 2021, arXiv:2105.13290).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.kernels.dropout import dropout
from jaxencoder.kernels.gradients import PRODUCT
from jaxencoder.kernels.inputs import ATTENDED
from jaxencoder.kernels.platform import platform
from jaxencoder.kernels.rotary import Table
from jaxencoder.model.attention import Attention
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.layers import Bottleneck, Convolution, Embeddings, Mixture, Mlp, Norm, apply, apply_norm
from jaxencoder.model.positions import DistanceEmbedding, RelativeBias, alibi, rotary_table_for
from jaxencoder.sharding import constrain

_OUTPUTS = "intermediates"  # the collection of the layers' outputs, kept for `first_layers` only


class LayerInputs(NamedTuple):
    """Inputs of every layer in addition to x."""

    segment_ids: jax.Array  # [B, T] int32, the document of each token, 0 for padding
    rotary_global: Table | None  # of layers without a window; the thetas of the two kinds can differ
    rotary_local: Table | None
    bias: jax.Array | None  # [2 T - 1, N] float32, terms of the scores by distance
    distances: jax.Array | None  # [R, D] float32, relative-position embeddings for disentangled attention
    convolution: tuple[jax.Array, dict[str, jax.Array]] | None  # term added after the first layer, and its norm
    global_slots: jax.Array | None  # [B, G] int32, positions of each row's global tokens, -1 for unused slots
    key_segment_ids: jax.Array | None  # [B, T] int32, segment_ids with -1 at tokens that no token attends to


class Block(nn.Module):
    """Attention and MLP, each with its residual, norm and optional adapter: [B, T, D] -> [B, T, D]."""

    config: EncoderConfig
    compute: ComputeConfig
    window: int
    has_experts: bool
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array, inputs: LayerInputs, skip_norm: jax.Array | None) -> jax.Array:
        c = self.config

        def drop(y: jax.Array) -> jax.Array:
            return dropout(y, c.dropout, self.make_rng("dropout")) if self.train and c.dropout else y

        def residual(x: jax.Array, f: Callable[[jax.Array], jax.Array], name: str, skip: jax.Array | None) -> jax.Array:
            norm = Norm(c, name=f"{name}_norm")
            has_adapter = c.bottleneck and name in c.bottleneck_sublayers
            adapter = Bottleneck(c, name=f"{name}_bottleneck") if has_adapter else lambda y: y
            if c.norm_placement == "post":
                return norm(constrain(x + adapter(drop(f(x)))))
            # ModernBERT's first layer has no norm here. `skip` is traced, as all layers of a scan are one program.
            normalized = norm(x) if skip is None else jnp.where(skip, x, norm(x))
            y = adapter(drop(f(normalized)))
            return constrain(x + (Norm(c, name=f"{name}_output_norm")(y) if c.norm_placement == "sandwich" else y))

        attention = Attention(c, self.compute, self.window, self.train, name="attention")
        rotary = inputs.rotary_local if self.window else inputs.rotary_global
        terms = (inputs.bias, inputs.distances, inputs.global_slots, inputs.key_segment_ids)
        x = residual(x, lambda h: attention(h, inputs.segment_ids, rotary, *terms), "attention", skip_norm)
        return residual(x, (Mixture if self.has_experts else Mlp)(c, name="mlp"), "mlp", None)


class Pattern(nn.Module):
    """The layer pattern, once or several times with the same parameters; its signature is that of `nn.scan`.

    The carry is x, and nothing is collected. `repetitions` holds the number of each repetition.
    """

    config: EncoderConfig
    compute: ComputeConfig
    windows: tuple[int, ...]
    train: bool
    in_loop: bool  # of several iterations, where XLA cannot merge recomputed layers with the originals

    @nn.compact
    def __call__(self, x: jax.Array, repetitions: jax.Array, inputs: LayerInputs) -> tuple[jax.Array, None]:
        has_gaps = self.config.num_layer_groups and self.config.repeats % self.config.num_layer_groups

        def once(pattern: Pattern, x: jax.Array, repetition: jax.Array) -> tuple[jax.Array, None]:
            y = pattern.blocks(x, repetition, inputs)
            return jnp.where(repetition < 0, x, y) if has_gaps else y, None

        if len(repetitions) == 1:
            return once(self, x, repetitions[0])
        # ALBERT: every repetition has the same parameters, and its own dropout.
        options = {"variable_axes": {_OUTPUTS: 0}, "split_rngs": {"params": False, "dropout": True}}
        repeated = nn.scan(once, variable_broadcast="params", **options)
        return repeated(self, x, repetitions)

    def blocks(self, x: jax.Array, repetition: jax.Array, inputs: LayerInputs) -> jax.Array:
        block = Block
        if self.compute.remat != "none":
            saved = jax.checkpoint_policies.save_only_these_names(PRODUCT, ATTENDED)
            policy = saved if self.compute.remat == "dots" else None  # None: nothing but the layer's input
            block = nn.remat(Block, policy=policy, prevent_cse=not self.in_loop)
        for i, window in enumerate(self.windows):
            # The first layer's unused norm keeps its row among the stacked parameters.
            skip = repetition == 0 if i == 0 and not self.config.first_attention_norm else None
            has_experts = i in self.config.expert_layers
            layer = block(self.config, self.compute, window, has_experts, self.train, name=f"block_{i}")
            x = layer(x, inputs, skip)
            if i == 0 and inputs.convolution is not None:  # DeBERTa-v2: norm(first layer's output + convolution)
                term, norm = inputs.convolution
                x = jnp.where(repetition == 0, apply_norm(self.config, norm, x + term), x)
            self.sow(_OUTPUTS, f"output_{i}", x)
        return x


class Encoder(nn.Module):
    """Token ids to contextual embeddings.

    Parameters are float32. Those of the layers are stacked: a leaf of `layers/block_i` has a leading axis of
    `config.stack` and holds layers i, i + len(windows), ... (or the sets that they share). Layers that do not fill a
    pattern are `last/block_i`.
    """

    config: EncoderConfig
    compute: ComputeConfig = ComputeConfig()
    long_rows: bool = False  # allow rows longer than the learned positions: each text has at most that many tokens

    @nn.compact
    def __call__(
        self,
        token_ids: jax.Array,
        segment_ids: jax.Array,
        positions: jax.Array,
        token_type_ids: jax.Array | None = None,
        train: bool = False,
        global_slots: jax.Array | None = None,
        key_segment_ids: jax.Array | None = None,
    ) -> jax.Array:
        """Contextual embeddings of packed rows.

        Args:
            token_ids: [B, T] int32.
            segment_ids: [B, T] int32, 1, 2, ... for the documents of a row, 0 for padding.
            positions: [B, T] int32, restarting at 0 in each document.
            token_type_ids: [B, T] int32 or None for all 0.
            train: apply dropout, which needs `rngs={"dropout": key}`.
            global_slots: [B, G] int32, distinct positions of a row's global tokens, -1 for unused slots; None for none.
            key_segment_ids: [B, T] int32, `segment_ids` with -1 at tokens that none attends to; None: no such token.

        Returns:
            [B, T, D] in `compute.dtype`; values at padding are meaningless.
        """
        c, T = self.config, token_ids.shape[1]
        if global_slots is not None and not c.global_tokens:
            raise ValueError("global_slots are given, but model.global_tokens is false; leave them out.")
        if key_segment_ids is not None and (global_slots is not None or c.conv_kernel_size):
            kind = "global tokens" if global_slots is not None else "a convolution"
            raise ValueError(f"A model with {kind} cannot hide tokens from attention; let them be attended.")
        if c.global_tokens and global_slots is None and self.is_initializing():
            global_slots = jnp.full((len(token_ids), 1), -1)  # so that their projections get parameters
        if c.positions == "learned" and c.max_length < T and not self.long_rows:
            raise ValueError(
                f"Rows of {T} tokens do not fit the model's {c.max_length} learned positions; shorten data.row_length "
                "or raise model.max_length."
            )
        embeddings = Embeddings(c, jnp.dtype(self.compute.dtype), name="embeddings")
        x = constrain(embeddings(token_ids, positions, token_type_ids, train, segment_ids))
        self.sow(_OUTPUTS, "input", x)
        inputs = self._layer_inputs(x, segment_ids, positions, train)
        inputs = inputs._replace(global_slots=global_slots, key_segment_ids=key_segment_ids)
        if c.repeats:
            layers = nn.scan(
                Pattern,
                variable_axes={"params": 0, _OUTPUTS: 0},  # stacked
                split_rngs={"params": True, "dropout": True},  # layers start and drop differently
                in_axes=(0, nn.broadcast),  # pyright: ignore[reportArgumentType]  # flax declares one axis only
                length=c.stack,
                unroll=_unroll(c, self.compute),
            )
            repetitions = jnp.asarray(_repetitions(c))
            x, _ = layers(c, self.compute, c.windows, train, c.repeats > 1, name="layers")(x, repetitions, inputs)
        if c.remainder:
            last = Pattern(c, self.compute, c.remainder, train, False, name="last")
            x, _ = last(x, jnp.full(1, c.repeats), inputs)
        return x if c.norm_placement == "post" else Norm(c, name="final_norm")(x)

    def _layer_inputs(self, x: jax.Array, segment_ids: jax.Array, positions: jax.Array, train: bool) -> LayerInputs:
        c, T = self.config, x.shape[1]
        rotates = c.positions == "rotary"
        rotary_global = rotary_table_for(c, positions, segment_ids, local=False) if rotates else None
        rotary_local = rotary_table_for(c, positions, segment_ids, local=True) if rotates else None
        bias = alibi(T, c.num_heads, c.max_length) if c.positions == "alibi" else None
        if c.relative_bias_buckets and not c.relative_bias_by_layer:
            bias = RelativeBias(c, name="relative_bias")(T)
        distances = DistanceEmbedding(c, name="distance_embedding")() if c.disentangled else None
        convolution = Convolution(c, name="convolution")(x, segment_ids, train) if c.conv_kernel_size else None
        return LayerInputs(segment_ids, rotary_global, rotary_local, bias, distances, convolution, None, None)


def _repetitions(c: EncoderConfig) -> np.ndarray:
    """Numbers of the repetitions that share each set of parameters, int32 [stack, most]; -1 where a set has fewer."""
    sets = [int(i / (c.repeats / c.stack)) for i in range(c.repeats)]
    members = [[i for i, number in enumerate(sets) if number == row] for row in range(c.stack)]
    most = max(map(len, members))
    return np.array([row + [-1] * (most - len(row)) for row in members], np.int32)


def first_layers(
    module: Encoder, params: Mapping[str, Any], numbers: Sequence[int], *inputs: Any, **options: Any
) -> jax.Array:
    """The outputs [1 + K, B, T, D] of an encoder, and of those that have its first layers only, of these K numbers.

    One without layers gives the embeddings of the tokens. A norm after the last layer follows in each of them.
    """
    if not numbers:
        return jnp.expand_dims(apply(module, params, *inputs, **options), 0)
    c, repetitions = module.config, _repetitions(module.config)
    output, state = apply(module, params, *inputs, mutable=[_OUTPUTS], **options)
    stored: Any = state[_OUTPUTS]

    def of(number: int) -> jax.Array:
        repetition, i = divmod(number - 1, len(c.windows))
        if not number:
            return stored["input"][0]
        if repetition == c.repeats:
            return stored["last"][f"output_{i}"][0]
        row, position = np.argwhere(repetitions == repetition)[0]
        of_row = stored["layers"][f"output_{i}"][0][row]
        return of_row if repetitions.shape[1] == 1 else of_row[position]

    def with_norm(x: jax.Array) -> jax.Array:
        return x if c.norm_placement == "post" else apply_norm(c, params["final_norm"], x)

    return jnp.stack([output, *(with_norm(of(number)) for number in numbers)])


def init_params(keys: jax.Array, module: Encoder, heads: Mapping[str, nn.Module], *inputs: Any) -> dict[str, Any]:
    """Parameters of an encoder and its heads by name, from one key for each; `inputs` follow the vectors in a head."""
    one, hidden = jnp.ones((1, 1), jnp.int32), jnp.zeros((1, 1, module.config.hidden_size))
    params = {"encoder": module.init(keys[0], one, one, one * 0)["params"]}
    for (name, head), key in zip(heads.items(), keys[1:], strict=True):
        params[name] = head.init(key, hidden, *inputs).get("params", {})  # a masked-language-model head may have none
    return params


def _unroll(config: EncoderConfig, compute: ComputeConfig) -> int:
    # XLA's CPU backend copies the backward pass's residuals into and out of the loop's stacks. Unrolling a loop over 4
    # layers saves 15% of the CPU time per step, for 25% more compile time. Rematerialized layers must stay in the loop,
    # which keeps XLA from merging them with the originals.
    short = config.stack <= 6 and compute.remat == "none"
    return config.stack if short and platform() == "cpu" else 1
