"""RoFormer: BERT with rotary positions, in neighboring pairs. Su et al. 2021, arXiv:2104.09864."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jaxencoder.families.bert import BERT
from jaxencoder.families.electra import NARROW_SETTINGS, narrow_encoder
from jaxencoder.families.family import About, Family, plain_heads, two_layer_classifier
from jaxencoder.families.settings import same, sizes
from jaxencoder.families.tables import Names, Weight
from jaxencoder.model.config import EncoderConfig


def _encoder(c: EncoderConfig) -> Names:
    # With rotary values, the inputs of the output are ordered as the values.
    rotated = ("query", "key", "value", "output") if c.rotary_values else ("query", "key")
    paths = {f"encoder/layer/attention/{name}" for name in rotated}
    names = narrow_encoder("roformer.")
    return {name: Weight((str(ours),), interleaved=True) if ours in paths else ours for name, ours in names.items()}


_TABLE = "roformer.encoder.embed_positions.weight"


def _sinusoids(c: EncoderConfig) -> np.ndarray:
    """Sines, then cosines of the angles of all positions, [max_length, H]."""
    angles = np.arange(c.max_length)[:, None] * c.rope_theta ** (-np.arange(0, c.head_size, 2) / c.head_size)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def _with_base(c: EncoderConfig, tensors: Mapping[str, Any]) -> EncoderConfig:
    """The architecture with the base of a file's table of angles; ValueError for a table that no base gives."""
    if _TABLE not in tensors:
        return c
    table = np.asarray(tensors[_TABLE])
    tolerance = 1e-4 if table.dtype.itemsize >= 4 else 4e-3  # rounding of float16 and bfloat16
    for config in (c, *_other_base(c, table)):
        expected = _sinusoids(config)
        if table.shape == expected.shape and np.allclose(np.float32(table), expected, rtol=0, atol=tolerance):
            return config
    raise ValueError(f"{_TABLE} is no table of sines and cosines of max_position_embeddings; only such can be loaded")


def _other_base(c: EncoderConfig, table: np.ndarray) -> list[EncoderConfig]:
    """The architecture with the base that the slowest angle of position 1 has, if the table can have one."""
    if c.head_size < 4 or table.shape != (c.max_length, c.head_size) or c.max_length < 2:
        return []
    sine, cosine = (float(table[1, i]) for i in (c.head_size // 2 - 1, c.head_size - 1))
    slowest = math.atan2(sine, cosine)
    return [replace(c, rope_theta=slowest ** (-c.head_size / (c.head_size - 2)))] if slowest > 0 else []


ROFORMER = Family(
    model_type="roformer",
    name="RoFormer",
    prefix="roformer.",
    architecture=EncoderConfig(positions="rotary", max_length=1536),
    settings_table=(*NARROW_SETTINGS, same("rotary_value", "rotary_values")),
    encoder_table=_encoder,
    refine=_with_base,
    buffers=lambda c: {_TABLE: _sinusoids(c)},
    mlm_head_table=BERT.mlm_head_table,
    heads=lambda c, s: two_layer_classifier(s, c.activation) | plain_heads(s, "token_head", "span_head"),
    tied=BERT.tied,
    about=About(
        title="RoFormer",
        choose_for="Chinese, and studies of rotary positions, which it introduced",
        tokenizer="WordPiece of Chinese words or characters",
        objective="masked words",
        text="Chinese",
        papers={"RoFormer": "2104.09864"},
        releases={
            "junnyu/roformer_chinese_small": sizes(6, 384, 1536, 6, 50000),
            "junnyu/roformer_chinese_char_base": sizes(12, 768, 3072, 12, 12000, max_position_embeddings=512),
            "junnyu/roformer_chinese_base": sizes(12, 768, 3072, 12, 50000),
        },
    ),
    fixed=BERT.fixed,
)
