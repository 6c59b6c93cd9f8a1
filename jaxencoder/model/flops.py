"""FLOPs per token of training and inference, without recomputed work (Chowdhery et al. 2022, PaLM, appendix B)."""

from jaxencoder.model.config import EncoderConfig


def training_flops(model: EncoderConfig, row_length: int, predicted: float = 0.0) -> float:
    """FLOPs of forward and backward pass per token: three times `forward_flops`."""
    return 3 * forward_flops(model, row_length, predicted)


def forward_flops(model: EncoderConfig, row_length: int, predicted: float = 0.0) -> float:
    """FLOPs of a forward pass per token: 2 per weight, plus the products of attention.

    Args:
        model: the architecture.
        row_length: T, the number of keys per query of a global layer. (In packed rows, and in causal layers, fewer of
            them count; PaLM's formula counts all.)
        predicted: fraction of the tokens that a masked-language-model head predicts; 0 without the head.
    """
    D, E, V = model.hidden_size, model.embedding_width, model.vocab_size
    attention = 2 * D * model.head_size * (model.num_heads + model.kv_heads)  # query and output, key and value
    weights = attention + (3 if model.gated_mlp else 2) * D * model.mlp_size
    weights += 2 * D * model.bottleneck * len(model.bottleneck_sublayers)
    windows = [model.windows[layer % len(model.windows)] for layer in range(model.num_layers)]
    sides = 1 if model.causal else 2
    keys = sum(min(sides * window + 1, row_length) if window else row_length for window in windows)
    keys += len(model.disentangled) * model.num_layers * min(model.position_buckets, row_length)  # as distances
    head = predicted * ((D * E if model.head_transform else 0) + (D + E) * model.head_mlp_size + E * V)
    # 2 N H for the scores of a key, and 2 N H for adding its value.
    products = 4 * model.num_heads * model.head_size * keys
    return 2.0 * (weights * model.num_layers + D * model.embedding_size + head) + products
