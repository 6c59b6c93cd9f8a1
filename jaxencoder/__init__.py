"""Encoder-only transformers in JAX: pretrain, load, fine-tune, evaluate, embed and serve BERT's whole family.

Importing this package is cheap: jax is imported by the first call of `load`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxencoder.inference.model import Model

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(
    name_or_folder: str | Path, dtype: str | None = None, step: int | str = "latest", revision: str | None = None
) -> "Model":
    """Open a model.

    Args:
        name_or_folder: folder that `jaxencoder train`, transformers or sentence-transformers has written, or the name
            of one on the Hugging Face hub, such as "sentence-transformers/all-MiniLM-L6-v2"; also an adapter's folder,
            ours or PEFT's, which is put onto its base.
        dtype: of activations and matrix products, "float32" or "bfloat16"; None: float32 on a CPU, else as trained.
        step: of a run: number of a checkpoint, "latest", or "best" by the run's own measure.
        revision: of a name of the hub: a branch, tag or commit; None: its main branch.

    Returns:
        A model to call, with `.embed`, `.tokens`, `.token_chunks`, `.fill_mask`, `.score`, `.classify`, `.rerank`,
        `.with_adapter`, `.save`, and its pure parts `.module`, `.params`, `.tokenizer`.

    Raises:
        ValueError, OSError: the folder is missing, holds no model that can be loaded, or has no such checkpoint.
    """
    from jaxencoder.inference.load import load as open_model

    return open_model(name_or_folder, dtype, step, revision)
