"""The weights of PEFT's adapters on disk."""

from pathlib import Path

import numpy as np

from jaxencoder.checkpoints.torch_file import read_torch
from jaxencoder.checkpoints.weights import read_tensors

PEFT_FILE = "adapter_model.safetensors"
_TORCH_FILE = "adapter_model.bin"  # of PEFT before 0.7


def read_arrays(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of an adapter, and the metadata of a safetensors file."""
    if not (folder / PEFT_FILE).is_file() and (folder / _TORCH_FILE).is_file():
        return read_torch(folder / _TORCH_FILE), {}
    return read_tensors(folder / PEFT_FILE)
