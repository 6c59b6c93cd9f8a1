"""Encoder-only transformers in JAX: pretrain, load, fine-tune, evaluate, embed and serve BERT's whole family.

Importing this package is cheap: jax is imported by the first call of `load`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxencoder.inference.model import Model

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(run: str | Path, dtype: str | None = None, step: int | str = "latest") -> "Model":
    """Open a trained run.

    Args:
        run: folder that `jaxencoder train` has written.
        dtype: of activations and matrix products, "float32" or "bfloat16"; None: float32 on a CPU, else as trained.
        step: number of a checkpoint, "latest", or "best" by the run's own measure.

    Returns:
        A model with `.embed`, `.fill_mask`, `.tokens`, and its pure parts `.module`, `.params`, `.tokenizer`.

    Raises:
        ValueError, OSError: the folder is missing, is not a run, or has no such checkpoint.
    """
    from jaxencoder.inference.model import load as open_run

    return open_run(run, dtype, step)
