"""Settings of the encoder: contradictions are refused with one sentence, and layers are counted right."""

import pytest

from jaxencoder.model.config import EncoderConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "model.num_layers must be at least 1, got 0"),
        ({"hidden_size": 50, "num_heads": 4}, "hidden_size 50 is not a multiple of model.num_heads 4; change one"),
        ({"hidden_size": 12, "num_heads": 4, "positions": "rotary"}, "even head size, got 3; change model.num_heads"),
        ({"windows": ()}, r"model.windows must hold at least one number >= 0 .*, got \(\)"),
        ({"windows": (0, -1)}, r"got \(0, -1\)"),
        ({"vocab_size": -1}, "model.vocab_size must not be negative, got -1"),
        ({"num_heads": 12, "num_kv_heads": 5}, "num_heads 12 is not a multiple of model.num_kv_heads 5"),
        (
            {"num_layer_groups": 13},
            "num_layer_groups 13 has 12 repetitions of model.windows to share; give a whole number",
        ),
        ({"num_layer_groups": 1, "windows": (0,) * 5}, "num_layer_groups 1 has 2.4 repetitions"),
        ({"relative_bias_buckets": 6}, "relative_bias_buckets 6 must be a multiple of 4"),
        ({"relative_bias_buckets": 8, "positions": "alibi"}, "both biases by distance; choose one"),
        ({"global_tokens": True, "windows": (4, 0)}, r"global_tokens needs a window in every layer .*, got \(4, 0\)"),
        ({"global_tokens": True, "windows": (4,), "positions": "rotary"}, "learned positions .* rotary"),
        ({"global_tokens": True, "windows": (4,), "num_kv_heads": 6}, "model.num_kv_heads 0, .* and 6"),
        ({"disentangled": ("c2p",)}, r"disentangled \('c2p',\) needs model.position_buckets, got 0"),
        ({"position_buckets": 8}, "set both or neither"),
        ({"disentangled": ("c2p", "p2p"), "position_buckets": 8}, r"disentangled is \('c2p', 'p2p'\); name c2p, p2c"),
        ({"disentangled": ("p2c",), "position_buckets": 8, "max_distance": 5}, "max_distance 5 must be above"),
        ({"conv_kernel_size": 4}, "conv_kernel_size must be odd, or 0 for none, got 4"),
        ({"conv_kernel_size": 3, "conv_groups": 5}, "hidden_size 768 is not a multiple of model.conv_groups 5"),
        ({"relative_bias_by_layer": True}, "relative_bias_by_layer needs model.relative_bias_buckets, got 0"),
        ({"rope_half_precision": True}, "rope_half_precision needs rotary positions"),
        ({"head_dim": -1}, "model.head_dim must not be negative, got -1"),
        ({"head_dim": 7, "positions": "rotary"}, "positions rotary needs an even head size, got 7"),
        ({"attention_scale": -0.5}, "model.attention_scale must not be negative, got -0.5"),
        ({"causal": True, "conv_kernel_size": 3}, "causal needs model.global_tokens false and model.conv_kernel_size"),
        ({"num_experts": 4}, r"num_experts 4 and model.expert_layers \(\) need each other"),
        ({"expert_layers": (0,)}, r"num_experts 0 and model.expert_layers \(0,\) need each other"),
        ({"num_experts": 4, "expert_layers": (1,)}, r"expert_layers is \(1,\); name layers of .*, 0 to 0, each once"),
        (
            {"num_experts": 4, "expert_layers": (0,), "experts_per_token": 5},
            "experts_per_token must be 1 to .* 4, got 5",
        ),
        ({"dropout": 1.0}, r"model.dropout must be in \[0, 1\), got 1.0"),
        ({"attention_dropout": -0.1}, "model.attention_dropout must be in"),
    ],
)
def test_contradictions(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        EncoderConfig(**changes)
    assert "\n" not in str(error.value)


def test_heads_may_be_larger_than_their_share_of_the_width() -> None:
    config = EncoderConfig(hidden_size=50, num_heads=4, head_dim=16)
    assert config.head_size == 16 and EncoderConfig(hidden_size=48, num_heads=4).head_size == 12


@pytest.mark.parametrize(
    ("layers", "windows", "repeats", "remainder"),
    [(12, (0,), 12, ()), (22, (0, 64, 64), 7, (0,)), (5, (0, 8, 8), 1, (0, 8)), (2, (0, 8, 8), 0, (0, 8))],
)
def test_pattern(layers: int, windows: tuple[int, ...], repeats: int, remainder: tuple[int, ...]) -> None:
    config = EncoderConfig(num_layers=layers, windows=windows)
    assert (config.repeats, config.remainder) == (repeats, remainder)
    assert config.repeats * len(windows) + len(config.remainder) == layers
