"""Every architectural choice of every encoder family, in one frozen dataclass.

BERT (Devlin et al. 2019, arXiv:1810.04805) and ModernBERT (Warner et al. 2024, arXiv:2412.13663) are two values of it.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Activation = Literal[
    "gelu", "gelu_tanh", "gelu_clipped", "relu", "relu6", "relu_squared", "silu", "mish", "tanh", "quick_gelu"
]  # fmt: skip
Pooling = Literal["cls", "mean", "max", "learned", "mean_sqrt_len", "weightedmean", "lasttoken"]
Role = Literal["query", "document"]  # of a text in a search
# Functions of two vectors, greater for more similar ones; distances count as negative.
Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]


@dataclass(frozen=True)
class EncoderConfig:
    """The architecture of an encoder; the defaults are BERT-base. ValueError for choices that contradict each other."""

    vocab_size: int = 0
    """Rows of the token table; 0 takes the tokenizer's size."""
    num_layers: int = 12
    hidden_size: int = 768
    mlp_size: int = 3072
    num_heads: int = 12
    num_kv_heads: int = 0
    """Heads of keys and values, each shared by several query heads (Ainslie et al. 2023, arXiv:2305.13245); 0 takes
    num_heads."""
    head_dim: int = 0
    """Size of a head; 0 takes hidden_size / num_heads."""
    embedding_size: int = 0
    """Width of the embeddings, which a projection widens to hidden_size (ALBERT, ELECTRA); 0 takes hidden_size and no
    projection."""
    num_layer_groups: int = 0
    """Sets of parameters that consecutive repetitions of the layer pattern share: 1 is ALBERT (Lan et al. 2020,
    arXiv:1909.11942); 0 gives each layer its own. Repetition i of R has set int(i / (R / sets))."""
    positions: Literal["learned", "rotary", "alibi", "none"] = "learned"
    """Position encoding. `alibi` lowers the scores of distant tokens (Press et al. 2022, arXiv:2108.12409), on either
    side; `none` is for `disentangled`, relative_bias_buckets, or no positions at all."""
    disentangled: tuple[Literal["c2p", "p2c"], ...] = ()
    """Terms of content and distance in the attention scores (DeBERTa, He et al. 2021, arXiv:2006.03654): the query's
    content with the key's distance (c2p), or the reverse (p2c)."""
    position_buckets: int = 0
    """For `disentangled`: relative-position embeddings on either side; longer distances share the last one."""
    max_distance: int = 0
    """Distances beyond half of position_buckets share embeddings in logarithmic ranges up to this distance
    (DeBERTa-v2); 0 gives every distance its own."""
    relative_embedding_norm: bool = False
    """Normalize the relative-position embeddings (DeBERTa-v2)."""
    relative_projection: Literal["separate", "shared"] = "separate"
    """Kernels that project relative-position embeddings to keys and queries: separate ones, or those of the contents
    (DeBERTa-v2)."""
    conv_kernel_size: int = 0
    """Tokens that a convolution parallel to the first layer sees (the larger DeBERTa-v2 models); odd, 0 for none."""
    conv_groups: int = 1
    """Groups of channels that are convolved separately."""
    conv_activation: Activation = "tanh"
    relative_bias_buckets: int = 0
    """Rows of a table of attention biases by distance (MPNet, T5); 0 for none."""
    relative_bias_by_layer: bool = False
    """Give each layer its own table of these biases (UMT5); false shares one."""
    rotary_values: bool = False
    """Rotate values in addition to queries and keys (an option of RoFormer)."""
    position_pad_id: int = -1
    """Token id that learned positions do not count (RoBERTa's padding): it has one vector of its own wherever it
    stands, and the tokens after it have the positions that they would have without it; -1 counts all tokens."""
    max_length: int = 512
    """Rows of the learned position table, or the length that rotary positions are meant for (tokens)."""
    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths in global layers."""
    rope_theta_local: float = 10_000.0
    """Base of the rotary wavelengths in layers with a window."""
    rope_scaling: Literal["none", "linear", "dynamic", "yarn", "llama3"] = "none"
    """Extension of rotary positions beyond the pretraining length: all wavelengths rope_factor times longer (linear:
    Chen et al. 2023, arXiv:2306.15595); a base that grows with each text longer than rope_original_length (dynamic
    NTK); longer long wavelengths only (YaRN: Peng et al. 2023, arXiv:2309.00071; llama3: Llama 3.1, with another ramp).
    For NTK-aware scaling by a fixed factor, raise rope_theta."""
    rope_factor: float = 1.0
    """Length after extension as a multiple of the pretraining length; at least 1. For `dynamic`, the growth of the
    base: 1 follows the length of the text, larger values exceed it."""
    rope_original_length: int = 0
    """Tokens of a row in pretraining, which dynamic, YaRN and llama3 count from."""
    rope_betas: tuple[float, float] = (32.0, 1.0)
    """YaRN and llama3: wavelengths with more turns than the first in rope_original_length tokens stay, those with fewer
    turns than the second become rope_factor times longer, and those in between are interpolated."""
    rope_attention_factor: float = 0.0
    """YaRN: scale of queries and keys, which counters attention that spreads over more tokens; 0 takes
    0.1 ln(rope_factor) + 1."""
    rope_half_precision: bool = False
    """Round the frequencies to float16, in which published ESM-2 models have them."""
    rope_scaling_local: bool = False
    """Scale the layers with a window too. They never see a distance beyond it, so longer texts bring nothing new to
    them; some published checkpoints scale them nevertheless."""
    windows: tuple[int, ...] = (0,)
    """Attention windows, repeated over the layers: 0 sees the whole document, w sees w tokens to either side."""
    causal: bool = False
    """A token sees itself and the tokens before it in its document, as in decoders; with a window w, at most w tokens
    before it."""
    attention_scale: float = 0.0
    """Factor of the products of queries and keys; 0 takes 1 / sqrt(head size)."""
    qk_norm: bool = False
    """Normalize each head of queries and of keys, before rotary positions (Dehghani et al. 2023, arXiv:2302.05442)."""
    global_tokens: bool = False
    """Tokens that a batch lists see their whole document and are seen by all of it, through separate projections
    (Longformer: Beltagy et al. 2020, arXiv:2004.05150)."""
    token_types: int = 2
    """Rows of the token-type (segment A/B) table; 0 for none."""
    task_types: int = 0
    """Rows of the table of tasks, of which the first is added to all embeddings (ERNIE); 0 for none."""
    norm: Literal["layer", "rms"] = "layer"
    norm_placement: Literal["post", "pre", "sandwich"] = "post"
    """Where a sublayer f is normalized: norm(x + f(x)) (post: BERT), x + f(norm(x)) (pre) or x + norm(f(norm(x)))
    (sandwich: Gemma 3). The last two normalize the output of the encoder too."""
    norm_epsilon: float = 1e-12
    norm_unit_offset: bool = False
    """Scale by 1 + w instead of w, so that weight decay draws the scale to 1 (Gemma)."""
    embedding_norm: bool = True
    """Normalize the sum of the embeddings."""
    zeroed_token: int = 0
    """Id of the mask token of ESM-2, whose embeddings are zeros; those of a document's other tokens are multiplied by
    0.88 / (their share of the document), where 0.88 is their share in pretraining. 0 for none."""
    scaled_embeddings: bool = False
    """Multiply the token embeddings by sqrt(hidden_size) (Vaswani et al. 2017, arXiv:1706.03762; Gemma)."""
    first_attention_norm: bool = True
    """Normalize the attention input of the first layer too. False for ModernBERT, whose embeddings are already
    normalized."""
    attention_bias: bool = True
    key_bias: bool = True
    """Bias of the keys, if attention_bias is set (DeBERTa has none)."""
    mlp_bias: bool = True
    """Bias of the projections up, gate and down."""
    mlp_input_bias: bool = True
    """Bias of up and gate, if mlp_bias is set (gte has none)."""
    norm_bias: bool = True
    activation: Activation = "gelu"
    gated_mlp: bool = False
    """activation(gate(x)) * up(x) instead of activation(up(x)): GeGLU with gelu (Shazeer 2020, arXiv:2002.05202)."""
    num_experts: int = 0
    """MLPs in a layer of expert_layers, of which a router chooses some for each token (Shazeer et al. 2017,
    arXiv:1701.06538); 0 for none. Pretraining has no loss that balances them."""
    experts_per_token: int = 2
    """Experts that compute each token."""
    expert_layers: tuple[int, ...] = ()
    """Layers whose MLP is such a mixture, as indices in the repeating pattern of `windows`: (1,) with windows (0, 0) is
    every other layer, from the second."""
    head_transform: bool = True
    """Projection, activation and norm before the output table of the masked-language-model head."""
    head_mlp_size: int = 0
    """Width of a head of two projections with head_activation after each, instead of that transform (UltraBERT); 0 for
    none."""
    head_activation: Literal["same", Activation] = "same"
    """Activation of the head; `same` takes `activation`."""
    head_bias: bool = True
    """Bias of that transform's projection."""
    output_bias: bool = True
    """Bias for each token of the vocabulary."""
    tied_output: bool = True
    """Use the token table as the output table (Press and Wolf 2017, arXiv:1608.05859)."""
    bottleneck: int = 0
    """Width of adapters: a projection down, an activation and a projection up (Houlsby et al. 2019, arXiv:1902.00751);
    0 for none. With adapters and init_from, the encoder itself stays frozen unless optimizer.trainable says
    otherwise."""
    bottleneck_sublayers: tuple[Literal["attention", "mlp"], ...] = ("attention", "mlp")
    """Sublayers followed by an adapter: both (Houlsby), or the MLP only (Pfeiffer et al. 2021, arXiv:2005.00247)."""
    dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_std: float = 0.02
    """Standard deviation of the initial weights, a normal distribution truncated at two standard deviations."""

    def __post_init__(self) -> None:
        problems = itertools.chain(
            self._size_problems(), self._layer_problems(), self._expert_problems(), self._scaling_problems()
        )
        if problem := next(problems, None):
            raise ValueError(f"model.{problem}.")

    def _size_problems(self) -> Iterator[str]:
        for name in ("num_layers", "hidden_size", "mlp_size", "num_heads", "max_length", "conv_groups"):
            if getattr(self, name) < 1:
                yield f"{name} must be at least 1, got {getattr(self, name)}"
        not_negative = ("vocab_size", "token_types", "task_types", "zeroed_token", "num_kv_heads", "embedding_size")
        not_negative += ("num_layer_groups", "bottleneck", "head_dim", "attention_scale", "relative_bias_buckets")
        not_negative += ("position_buckets", "max_distance", "conv_kernel_size", "head_mlp_size", "num_experts")
        for name in not_negative:
            if getattr(self, name) < 0:
                yield f"{name} must not be negative, got {getattr(self, name)}"
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                yield f"{name} must be in [0, 1), got {getattr(self, name)}"
        multiples = [("num_heads", "num_kv_heads"), ("hidden_size", "conv_groups")]
        multiples += [] if self.head_dim else [("hidden_size", "num_heads")]
        for name, factor in multiples:
            value, divisor = getattr(self, name), getattr(self, factor)
            if divisor and value % divisor:
                yield f"{name} {value} is not a multiple of model.{factor} {divisor}; change one of them"
        if self.head_mlp_size and self.head_transform:
            yield f"head_mlp_size {self.head_mlp_size} needs model.head_transform false, got true; choose one of them"
        if self.relative_bias_buckets % 4:
            yield f"relative_bias_buckets {self.relative_bias_buckets} must be a multiple of 4"
        if self.conv_kernel_size and not self.conv_kernel_size % 2:
            yield f"conv_kernel_size must be odd, or 0 for none, got {self.conv_kernel_size}"

    def _layer_problems(self) -> Iterator[str]:
        if not self.windows or min(self.windows) < 0:
            yield f"windows must hold at least one number >= 0 (0 = the whole document), got {self.windows}"
        if self.num_layer_groups and (self.remainder or self.num_layer_groups > self.repeats):
            repetitions = f"{self.num_layers / len(self.windows):g} repetitions of model.windows"
            yield f"num_layer_groups {self.num_layer_groups} has {repetitions} to share; give a whole number of as many"
        if self.global_tokens and (not all(self.windows) or self.positions != "learned" or self.num_kv_heads):
            values = f"{self.windows}, {self.positions} and {self.num_kv_heads}"
            rule = "a window in every layer of model.windows, learned positions and model.num_kv_heads 0"
            yield f"global_tokens needs {rule}, got {values}"
        if self.causal and (self.global_tokens or self.conv_kernel_size):
            yield "causal needs model.global_tokens false and model.conv_kernel_size 0: both see later tokens"
        if self.relative_bias_by_layer and not self.relative_bias_buckets:
            yield "relative_bias_by_layer needs model.relative_bias_buckets, got 0; set both or neither"
        if self.position_pad_id >= 0 and self.positions != "learned":
            yield f"position_pad_id {self.position_pad_id} needs learned positions, got {self.positions}; set it to -1"
        if self.relative_bias_buckets and self.positions == "alibi":
            yield "relative_bias_buckets and model.positions alibi are both biases by distance; choose one"
        if not {*self.disentangled} <= {"c2p", "p2c"}:
            yield f"disentangled is {self.disentangled}; name c2p, p2c or both"
        if bool(self.disentangled) != bool(self.position_buckets):
            needed = f"needs model.position_buckets, got {self.position_buckets}; set both or neither"
            yield f"disentangled {self.disentangled} {needed}"
        if self.max_distance and not 2 <= self.position_buckets < 2 * (self.max_distance - 1):
            bound = f"half of model.position_buckets {self.position_buckets} by more than 1; raise it, or set it to 0"
            yield f"max_distance {self.max_distance} must be above {bound}"
        names = self.bottleneck_sublayers
        if not {*names} <= {"attention", "mlp"} or len({*names}) < len(names) or (self.bottleneck and not names):
            yield f"bottleneck_sublayers is {names}; name attention, mlp or both once, or set model.bottleneck to 0"
        if self.positions == "rotary" and self.head_size % 2:
            yield f"positions rotary needs an even head size, got {self.head_size}; change model.num_heads"

    def _expert_problems(self) -> Iterator[str]:
        layers = self.expert_layers
        if bool(self.num_experts) != bool(layers):
            rule = "need each other; set both or neither"
            yield f"num_experts {self.num_experts} and model.expert_layers {layers} {rule}"
        if len({*layers}) < len(layers) or not {*layers} <= {*range(len(self.windows))}:
            rule = f"name layers of the pattern model.windows, 0 to {len(self.windows) - 1}, each once"
            yield f"expert_layers is {layers}; {rule}"
        if self.num_experts and not 1 <= self.experts_per_token <= self.num_experts:
            yield f"experts_per_token must be 1 to model.num_experts {self.num_experts}, got {self.experts_per_token}"

    def _scaling_problems(self) -> Iterator[str]:
        if self.rope_half_precision and (self.positions != "rotary" or self.rope_scaling != "none"):
            yield "rope_half_precision needs rotary positions and model.rope_scaling none; set it to false"
        if self.rope_scaling == "none":
            return
        if self.positions != "rotary" or (self.rope_scaling == "dynamic" and self.head_size < 4):
            values = f"got {self.positions!r} and {self.head_size}; set it to none"
            yield f"rope_scaling {self.rope_scaling!r} needs rotary positions and heads of size 4 or more, {values}"
        if not 1 <= self.rope_factor < math.inf:
            yield f"rope_factor must be a number of at least 1, got {self.rope_factor}"
        if self.rope_original_length < (self.rope_scaling != "linear"):
            needed = f"model.rope_original_length, the tokens of a row in pretraining, got {self.rope_original_length}"
            yield f"rope_scaling {self.rope_scaling!r} needs {needed}"
        fast, slow = self.rope_betas
        if not 0 < slow <= fast < math.inf or not 0 <= self.rope_attention_factor < math.inf:
            rule = "must be two numbers above 0, the larger one first, and model.rope_attention_factor not negative"
            yield f"rope_betas {rule}, got {self.rope_betas} and {self.rope_attention_factor}"
        if self.rope_scaling == "yarn" and self.rotary_values:
            yield "rope_scaling 'yarn' would scale values too; set model.rotary_values to false"

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_heads

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def embedding_width(self) -> int:
        return self.embedding_size or self.hidden_size

    @property
    def stack(self) -> int:
        """Leading axis of the stacked parameters."""
        return self.num_layer_groups or self.repeats

    @property
    def repeats(self) -> int:
        """Complete repetitions of the pattern `windows`."""
        return self.num_layers // len(self.windows)

    @property
    def remainder(self) -> tuple[int, ...]:
        """Windows of the last layers, which do not fill a pattern."""
        return self.windows[: self.num_layers % len(self.windows)]


@dataclass(frozen=True)
class ComputeConfig:
    """Settings of the arithmetic: they change speed, memory and rounding, never the model."""

    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Dtype of activations and matrix products; parameters, norms, softmax and losses stay float32. Training in float32
    lets XLA round the factors of products on GPUs (to TF32) and TPUs (to bfloat16); inference does not."""
    remat: Literal["none", "dots", "full"] = "none"
    """Recomputation in the backward pass: nothing, everything except products and attention (dots), or every layer from
    its input (full)."""
    attention: Literal["auto", "dense", "banded", "chunked", "single_pass", "splash", "tiled", "triton"] = "auto"
    """Attention backend; `auto` takes the fastest for the layer, the row length and the device. Another one applies to
    the layers that it supports: `banded` to layers with a window, `chunked`, `tiled` and `triton` to layers without
    one, `dense`, `single_pass` and `splash` to both. `single_pass`, `splash` and `tiled` are TPU kernels, `triton` is a
    GPU kernel; `tiled` refuses causal layers."""
