"""Settings and weights that families made from decoders share: Gemma 3, Qwen3, Llama and Mistral.

transformers opens such a model with a causal mask, unless its config.json says otherwise.
"""

from typing import Any

from jaxencoder.families.eurobert import EUROBERT
from jaxencoder.families.family import Heads, head
from jaxencoder.families.labels import labels
from jaxencoder.families.settings import HEAD_DIM, Fields, Settings, inherited, read_value, same
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig

# Follows the sizes, and comes before rotary positions.
HEADS = (
    inherited("num_key_value_heads", "num_kv_heads", "num_heads"),
    HEAD_DIM,
)
IS_CAUSAL = same("is_causal", "causal")
COMMON = (
    same("max_position_embeddings", "max_length"),
    same("rms_norm_eps", "norm_epsilon"),
    same("attention_dropout"),
    same("initializer_range", "initializer_std"),
)
ENCODER: dict[str, Any] = {name: ours for name, ours in EUROBERT.encoder_table.items()}  # pyright: ignore[reportAttributeAccessIssue]
QK_NORMS = {
    "model.layers.{layer}.self_attn.q_norm": "encoder/layer/attention/query_norm",
    "model.layers.{layer}.self_attn.k_norm": "encoder/layer/attention/key_norm",
}


def sliding_side(settings: Settings, fields: Fields, default: int) -> int | None:
    """Tokens that a sliding layer sees on a side: its window counts the token itself if it is causal."""
    if settings.get("sliding_window", default) is None:
        return None
    return read_value(settings, "sliding_window", int, default) - int(fields["causal"])


def sliding_window(c: EncoderConfig) -> int | None:
    """The inverse of `sliding_side`; None without sliding layers."""
    side = max(c.windows)
    return side + int(c.causal) if side else None


def score_head(settings: Settings, default_pad_id: int | None = None) -> Heads:
    """transformers' classifier of decoders: a projection of the last token whose id is not pad_token_id.

    ValueError for a pad_token_id that is no integer.
    """
    pad_id = settings.get("pad_token_id", default_pad_id)
    if pad_id is not None and type(pad_id) is not int:
        raise ValueError(f"config.json has pad_token_id {pad_id!r}; an integer or null is needed")
    config = HeadConfig("lasttoken", labels(settings), output_bias=False, pad_id=pad_id)
    return head("sequence_head", config, output="score")
