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
    weights = attention + 2 * D * model.bottleneck * len(model.bottleneck_sublayers)
    experts, mlp = expert_layers(model), mlp_weights(model)
    mlps = (model.num_layers - experts) * mlp + experts * (model.experts_per_token * mlp + D * model.num_experts)
    windows = [model.windows[layer % len(model.windows)] for layer in range(model.num_layers)]
    sides = 1 if model.causal else 2
    keys = sum(min(sides * window + 1, row_length) if window else row_length for window in windows)
    keys += len(model.disentangled) * model.num_layers * min(model.position_buckets, row_length)  # as distances
    head = predicted * ((D * E if model.head_transform else 0) + (D + E) * model.head_mlp_size + E * V)
    # 2 N H for the scores of a key, and 2 N H for adding its value.
    products = 4 * model.num_heads * model.head_size * keys
    return 2.0 * (weights * model.num_layers + mlps + D * model.embedding_size + head) + products


def expert_layers(model: EncoderConfig) -> int:
    """The number of layers whose MLP is a mixture of experts."""
    return sum(layer % len(model.windows) in model.expert_layers for layer in range(model.num_layers))


def mlp_weights(model: EncoderConfig) -> int:
    """Weights of an MLP or of an expert, without biases."""
    return (3 if model.gated_mlp else 2) * model.hidden_size * model.mlp_size


def unused_parameters(model: EncoderConfig) -> int:
    """Parameters of the experts that a token does not use; 0 without mixtures."""
    return expert_layers(model) * max(model.num_experts - model.experts_per_token, 0) * mlp_weights(model)
