"""Every architectural choice of every encoder family, as one frozen dataclass.

BERT (Devlin et al. 2019, arXiv:1810.04805) and ModernBERT (Warner et al. 2024, arXiv:2412.13663) are two values of it.
"""

import math
from dataclasses import dataclass
from typing import Literal

Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "tanh", "quick_gelu", "relu_squared"]


@dataclass(frozen=True)
class EncoderConfig:
    """The architecture of an encoder; the defaults are BERT-base.

    Raises:
        ValueError: a size is not positive, or two choices contradict each other.
    """

    vocab_size: int = 0
    """Rows of the token table; 0 takes the tokenizer's size."""
    num_layers: int = 12
    hidden_size: int = 768
    mlp_size: int = 3072
    num_heads: int = 12
    num_kv_heads: int = 0
    """Heads of keys and values, each for several of the queries (Ainslie et al. 2023, arXiv:2305.13245); 0: as many."""
    embedding_size: int = 0
    """Width of embeddings that a projection widens to hidden_size (ALBERT, ELECTRA); 0 for neither."""
    num_layer_groups: int = 0
    """Sets of parameters that the repetitions of the layer pattern share, one after the other: 1 is ALBERT
    (Lan et al. 2020, arXiv:1909.11942); 0 gives each layer its own."""
    positions: Literal["learned", "rotary", "alibi", "none"] = "learned"
    """How a token knows its place; `alibi` lowers the scores of far tokens (Press et al. 2022, arXiv:2108.12409), to
    either side; `none` leaves that to `disentangled` or to nothing."""
    disentangled: tuple[Literal["c2p", "p2c"], ...] = ()
    """Scores of content with distance that are added to those of content with content (DeBERTa, He et al. 2021,
    arXiv:2006.03654): the query's content with the distance of the key (c2p), or the reverse (p2c)."""
    position_buckets: int = 0
    """For `disentangled`: rows of the table of distances to either side; further distances share the last one."""
    max_distance: int = 0
    """Distances beyond half of position_buckets share rows in ranges that grow as their logarithm up to this distance
    (DeBERTa-v2); 0: every distance has a row."""
    relative_embedding_norm: bool = False
    """Normalise the table of distances (DeBERTa-v2)."""
    relative_projection: Literal["own", "shared"] = "own"
    """Distances are projected to keys and queries by kernels of their own, or by those of the contents (DeBERTa-v2)."""
    conv_kernel_size: int = 0
    """Tokens that a convolution beside the first layer sees (DeBERTa-v2's larger sizes); odd, 0 for none."""
    conv_groups: int = 1
    """Parts that the convolution cuts D into, each convolved alone."""
    conv_activation: Activation = "tanh"
    relative_bias_buckets: int = 0
    """Rows of a table of attention biases by distance, which all layers share (MPNet, T5); 0 for none."""
    rotary_values: bool = False
    """Turn values too, besides queries and keys (an option of RoFormer)."""
    max_length: int = 512
    """Rows of the learned position table, or the length that rotary positions are meant for (tokens)."""
    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths in global layers."""
    rope_theta_local: float = 10_000.0
    """Base of the rotary wavelengths in layers with a window."""
    rope_scaling: Literal["none", "linear", "dynamic", "yarn"] = "none"
    """How rotary positions reach beyond the length of pretraining: all wavelengths rope_factor times longer (linear:
    Chen et al. 2023, arXiv:2306.15595); a base that grows with each text longer than rope_original_length (dynamic
    NTK); the long wavelengths alone (YaRN: Peng et al. 2023, arXiv:2309.00071). NTK-aware scaling by a fixed factor is
    a larger rope_theta."""
    rope_factor: float = 1.0
    """How many times further the positions reach than in pretraining; at least 1. Of `dynamic` how fast the base grows:
    with 1 it keeps up with the text, with more it is ahead of it."""
    rope_original_length: int = 0
    """Tokens of a row in pretraining, which dynamic and YaRN count from."""
    rope_betas: tuple[float, float] = (32.0, 1.0)
    """YaRN: a wavelength that turns more often than the first in rope_original_length tokens stays, one that turns less
    often than the second becomes rope_factor times longer, those between do in part."""
    rope_attention_factor: float = 0.0
    """YaRN: scales queries and keys, against attention that spreads over more tokens; 0: 0.1 ln(rope_factor) + 1."""
    rope_scaling_local: bool = False
    """Scale the layers with a window too. They never meet a distance beyond it, so that nothing in them is new in a
    longer text; some published checkpoints do it all the same."""
    windows: tuple[int, ...] = (0,)
    """Attention windows, repeated over the layers: 0 sees the whole document, w sees w tokens to either side."""
    global_tokens: bool = False
    """Tokens that a batch names see all of their document and are seen by all of it, by projections of their own
    (Longformer: Beltagy et al. 2020, arXiv:2004.05150)."""
    token_types: int = 2
    """Rows of the token-type (segment A/B) table; 0 for none."""
    norm: Literal["layer", "rms"] = "layer"
    norm_placement: Literal["post", "pre"] = "post"
    norm_epsilon: float = 1e-12
    embedding_norm: bool = True
    """Normalise the sum of the embeddings."""
    first_attention_norm: bool = True
    """Normalise the first layer's attention input too (ModernBERT does not: its embeddings are normalised already)."""
    attention_bias: bool = True
    key_bias: bool = True
    """Keys have a bias where attention_bias asks for biases (DeBERTa's have none)."""
    mlp_bias: bool = True
    norm_bias: bool = True
    activation: Activation = "gelu"
    gated_mlp: bool = False
    """activation(gate(x)) * up(x) instead of activation(up(x)): GeGLU with gelu (Shazeer 2020, arXiv:2002.05202)."""
    head_transform: bool = True
    """The masked-language-model head has a projection, an activation and a norm before the output table."""
    head_activation: Literal["same", Activation] = "same"
    """Of that transform; `same` is the encoder's."""
    head_bias: bool = True
    """A bias in that projection."""
    output_bias: bool = True
    """A bias for each token of the vocabulary."""
    tied_output: bool = True
    """The output table is the token table (Press and Wolf 2017, arXiv:1608.05859)."""
    bottleneck: int = 0
    """Width of adapters: a projection down, an activation and a projection up (Houlsby et al. 2019, arXiv:1902.00751);
    0 for none. With them and init_from, the encoder itself stays, unless optimizer.trainable says otherwise."""
    bottleneck_sublayers: tuple[Literal["attention", "mlp"], ...] = ("attention", "mlp")
    """What has an adapter behind it in each layer: both (Houlsby), or the MLP alone (Pfeiffer et al. 2021,
    arXiv:2005.00247)."""
    dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_std: float = 0.02
    """The weights start from a normal distribution of this standard deviation, cut at two of them."""

    def __post_init__(self) -> None:
        for name in ("num_layers", "hidden_size", "mlp_size", "num_heads", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be at least 1, got {getattr(self, name)}.")
        for name in (
            *(
                "vocab_size",
                "token_types",
                "num_kv_heads",
                "embedding_size",
                "num_layer_groups",
                "relative_bias_buckets",
            ),
            *("position_buckets", "max_distance", "conv_kernel_size", "bottleneck"),
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"model.{name} must not be negative, got {getattr(self, name)}.")
        if not self.windows or min(self.windows) < 0:
            raise ValueError(
                f"model.windows must hold at least one number >= 0 (0 = the whole document), got {self.windows}."
            )
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"model.hidden_size {self.hidden_size} is not a multiple of model.num_heads {self.num_heads}; "
                "change one of them."
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"model.num_heads {self.num_heads} is not a multiple of model.num_kv_heads {self.num_kv_heads}; "
                "change one of them."
            )
        if self.num_layer_groups and (self.remainder or self.repeats % self.num_layer_groups):
            raise ValueError(
                f"model.num_layer_groups {self.num_layer_groups} does not divide the {self.num_layers / len(self.windows):g} "
                "repetitions of the layer pattern; change it or model.num_layers."
            )
        if self.relative_bias_buckets % 4:
            raise ValueError(f"model.relative_bias_buckets {self.relative_bias_buckets} must be a multiple of 4.")
        if self.relative_bias_buckets and self.positions == "alibi":
            raise ValueError(
                "model.relative_bias_buckets and model.positions alibi are two biases of distance; choose one."
            )
        if self.global_tokens and (not all(self.windows) or self.positions != "learned" or self.num_kv_heads):
            raise ValueError(
                "model.global_tokens needs a window in every layer of model.windows, learned positions and "
                f"model.num_kv_heads 0, got {self.windows}, {self.positions} and {self.num_kv_heads}."
            )
        if bool(self.disentangled) != bool(self.position_buckets):
            raise ValueError(
                f"model.disentangled {self.disentangled} needs model.position_buckets, got {self.position_buckets}; "
                "set both or neither."
            )
        if self.max_distance and not 2 <= self.position_buckets < 2 * (self.max_distance - 1):
            raise ValueError(
                f"model.max_distance {self.max_distance} must be above half of model.position_buckets "
                f"{self.position_buckets} by more than 1; raise it, or set it to 0."
            )
        if self.conv_kernel_size and not self.conv_kernel_size % 2:
            raise ValueError(f"model.conv_kernel_size must be odd, or 0 for none, got {self.conv_kernel_size}.")
        if self.conv_groups < 1 or self.hidden_size % self.conv_groups:
            raise ValueError(
                f"model.conv_groups {self.conv_groups} does not divide model.hidden_size "
                f"{self.hidden_size}; change one of them."
            )
        places = self.bottleneck_sublayers
        if (
            not set(places) <= {"attention", "mlp"}
            or len(set(places)) < len(places)
            or (self.bottleneck and not places)
        ):
            raise ValueError(
                f"model.bottleneck_sublayers is {places}; name attention, mlp or both once, or set model.bottleneck to 0."
            )
        if self.positions == "rotary" and self.head_size % 2:
            raise ValueError(f"Rotary positions need an even head size, got {self.head_size}; change model.num_heads.")
        self._check_scaling()
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be in [0, 1), got {getattr(self, name)}.")

    def _check_scaling(self) -> None:
        if self.rope_scaling == "none":
            return
        if self.positions != "rotary" or (self.rope_scaling == "dynamic" and self.head_size < 4):
            raise ValueError(
                f"model.rope_scaling {self.rope_scaling!r} needs rotary positions and heads of at least 4 numbers, got "
                f"{self.positions!r} and {self.head_size}; set it to none."
            )
        if not 1 <= self.rope_factor < math.inf:
            raise ValueError(f"model.rope_factor must be a number of at least 1, got {self.rope_factor}.")
        if self.rope_original_length < (self.rope_scaling != "linear"):
            raise ValueError(
                f"model.rope_scaling {self.rope_scaling!r} needs model.rope_original_length, the tokens of a row in "
                f"pretraining, got {self.rope_original_length}."
            )
        fast, slow = self.rope_betas
        if not 0 < slow <= fast < math.inf or not 0 <= self.rope_attention_factor < math.inf:
            raise ValueError(
                "model.rope_betas must be two numbers above 0, the larger one first, and model.rope_attention_factor "
                f"not negative, got {self.rope_betas} and {self.rope_attention_factor}."
            )
        if self.rope_scaling == "yarn" and self.rotary_values:
            raise ValueError("model.rope_scaling 'yarn' would scale values too; set model.rotary_values to false.")

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def embedding_width(self) -> int:
        return self.embedding_size or self.hidden_size

    @property
    def stack(self) -> int:
        """The leading axis of the stacked parameters."""
        return self.num_layer_groups or self.repeats

    @property
    def repeats(self) -> int:
        """How often the whole pattern of `windows` repeats."""
        return self.num_layers // len(self.windows)

    @property
    def remainder(self) -> tuple[int, ...]:
        """The windows of the last layers, those that do not fill a pattern."""
        return self.windows[: self.num_layers % len(self.windows)]


@dataclass(frozen=True)
class ComputeConfig:
    """How the arithmetic is done; changes speed, memory and rounding, never the model."""

    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of activations and matrix products; parameters, norms, softmax and losses stay float32. Training in float32 lets
    XLA round the factors of products on GPUs (to TF32) and TPUs (to bfloat16); inference does not."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the backward pass recomputes: nothing, all but the products and attention, or every layer from its input."""
    attention: Literal["auto", "dense", "banded", "chunked", "splash", "tiled", "triton"] = "auto"
    """Attention backend; `auto` takes the fastest for the layer, the row's length and the device. Another is for those
    layers that it is meant for: `banded` with a window, `chunked`, `tiled` and `triton` without one, `dense` and
    `splash` both; `splash` and `tiled` are kernels for TPUs, `triton` for GPUs."""
