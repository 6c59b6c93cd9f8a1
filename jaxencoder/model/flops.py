"""How much arithmetic a token takes to train on.

No recomputed work is counted, as in MFU: Chowdhery et al. 2022 (PaLM, arXiv:2204.02311, appendix B).
"""

from jaxencoder.model.config import EncoderConfig


def training_flops(model: EncoderConfig, row_length: int, predicted: float = 0.0) -> float:
    """FLOPs of forward and backward pass per token: those of `forward_flops`, and twice as many backward."""
    return 3 * forward_flops(model, row_length, predicted)


def forward_flops(model: EncoderConfig, row_length: int, predicted: float = 0.0) -> float:
    """FLOPs of a forward pass per token: 2 a weight, and attention's products.

    Args:
        model: the architecture; without a window, row_length is taken for the number of keys of a query (with many
            documents in a row the useful number is smaller).
        row_length: T.
        predicted: share of the tokens that a masked-language-model head predicts; 0 without one.
    """
    D, E, V = model.hidden_size, model.embedding_width, model.vocab_size
    attention = 2 * D * model.head_size * (model.num_heads + model.kv_heads)
    weights = attention + (3 if model.gated_mlp else 2) * D * model.mlp_size
    weights += 2 * D * model.bottleneck * len(model.bottleneck_sublayers)
    windows = [model.windows[layer % len(model.windows)] for layer in range(model.num_layers)]
    keys = sum(min(2 * window + 1, row_length) if window else row_length for window in windows)
    head = predicted * ((D * E if model.head_transform else 0) + E * V)
    keys += len(model.disentangled) * model.num_layers * min(model.position_buckets, row_length)
    return 2.0 * (weights * model.num_layers + D * model.embedding_size + head) + 4 * D * keys
