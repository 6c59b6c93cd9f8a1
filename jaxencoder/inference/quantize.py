"""Vectors of fewer bits: a byte for each number, or a bit for its sign, in the layout of sentence-transformers.

Binary vectors with rescoring follow Yamada et al. 2021 (Binary Passage Retriever), arXiv:2106.00882.
"""

import numpy as np

from jaxencoder.inference.options import Precision

_LEVELS = 255  # steps from the lowest to the highest byte


def value_ranges(vectors: np.ndarray) -> np.ndarray:
    """The lowest and highest value of each dimension of vectors [N, D], float32 [2, D]; ValueError for one vector."""
    if len(vectors) < 2:
        raise ValueError(f"{len(vectors)} vectors have no ranges to divide into bytes; give at least 2")
    return np.stack([vectors.min(0), vectors.max(0)]).astype(np.float32)


def quantize(vectors: np.ndarray, precision: Precision, ranges: np.ndarray | None = None) -> np.ndarray:
    """Vectors of a lower precision.

    Args:
        vectors: float [N, D].
        precision: "int8" and "uint8" divide the range of each dimension into 256 steps and clip what is outside;
            "binary" and "ubinary" keep whether a number is above 0, eight to a byte and the first in the highest bit.
            Signed bytes are unsigned ones minus 128.
        ranges: of the numbers to divide into bytes, see `value_ranges`; None: those of `vectors`.

    Returns:
        float32, int8 or uint8 [N, D], or int8 or uint8 [N, ceil(D / 8)] for "binary" and "ubinary": the arrays of
        sentence-transformers' quantize_embeddings.
    """
    if precision == "float32":
        return vectors.astype(np.float32)
    if precision in ("binary", "ubinary"):
        unsigned = np.packbits(vectors > 0, axis=-1)
    else:
        lowest, steps = _steps(value_ranges(vectors) if ranges is None else ranges)
        unsigned = np.clip(np.floor((vectors - lowest) / steps), 0, _LEVELS).astype(np.uint8)
    return unsigned if precision.startswith("u") else (unsigned.astype(np.int16) - 128).astype(np.int8)


def compared_values(codes: np.ndarray, precision: Precision, size: int) -> np.ndarray:
    """The numbers by which quantized vectors of D = `size` are compared, float32 [N, D]: bytes, or signs as 1 or -1.

    The dot product of signs is D - 2 * (the Hamming distance).
    """
    if precision in ("binary", "ubinary"):
        unsigned = codes if precision == "ubinary" else (codes.astype(np.int16) + 128).astype(np.uint8)
        return 2 * np.unpackbits(unsigned, axis=-1)[:, :size].astype(np.float32) - 1
    return codes.astype(np.float32)


def dequantize(codes: np.ndarray, precision: Precision, size: int, ranges: np.ndarray) -> np.ndarray:
    """The vectors float32 [N, D] that quantized ones stand for: the lower end of each step, or signs as 1 or -1."""
    values = compared_values(codes, precision, size)
    if precision not in ("int8", "uint8"):
        return values
    lowest, steps = _steps(ranges)
    return (values + (128 if precision == "int8" else 0)) * steps + lowest


def _steps(ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest value and the size of a step of each dimension; the step is 1 where all values are equal."""
    steps = (ranges[1] - ranges[0]) / _LEVELS
    return ranges[0], np.where(steps == 0, 1, steps)
