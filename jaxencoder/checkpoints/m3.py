"""The heads of bge-m3 beside its encoder: lexical weights of tokens, and their vectors, in files of torch.

Chen et al. 2024 (M3-Embedding), arXiv:2402.03216.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.kind import MODULES_FILE
from jaxencoder.checkpoints.torch_file import read_torch
from jaxencoder.model.multi_vector import LEXICAL, MultiVectorConfig
from jaxencoder.model.sentence import Dense, SentenceConfig
from jaxencoder.objectives.objective import Params

LEXICAL_FILE, TOKENS_FILE = "sparse_linear.pt", "colbert_linear.pt"


def with_m3_heads(model: Checkpoint, folder: Path) -> Checkpoint:
    """The model with the heads whose files are in its folder; itself if there are none.

    Without a modules.json its vector of a text is that of [CLS], of length 1, as in FlagEmbedding.
    """
    missing = [name for name in (LEXICAL_FILE, TOKENS_FILE) if not (folder / name).is_file()]
    if len(missing) == 2:
        return model
    if missing:
        raise FileNotFoundError(f"{folder} has only one of bge-m3's heads; add {missing[0]}")
    size = model.config.model.hidden_size
    lexical, tokens = _linear(folder / LEXICAL_FILE, size), _linear(folder / TOKENS_FILE, size)
    if (outputs := lexical["kernel"].shape[1]) != 1:
        raise ValueError(f"{folder / LEXICAL_FILE} gives {outputs} numbers for each token; a single weight is needed")
    projection = Dense(*tokens["kernel"].shape, activation="identity")
    settings = MultiVectorConfig(modules=(projection,), skips_first=True, mean=True, is_only=False)
    sentence = model.sentence
    if not (folder / MODULES_FILE).is_file():
        sentence = SentenceConfig(("cls",), normalize=True)
    params = model.params | {"multi_vector": {"0": tokens}, LEXICAL: lexical}
    return replace(model, params=params, multi_vector=settings, sentence=sentence)


def _linear(file: Path, inputs: int) -> Params:
    """The kernel [inputs, outputs] and the bias of a torch.nn.Linear."""
    tensors = read_torch(file)
    if set(tensors) != {"weight", "bias"}:
        raise ValueError(f"{file} has the weights {', '.join(sorted(tensors))}; weight and bias are needed")
    weight, bias = (np.asarray(tensors[name], np.float32) for name in ("weight", "bias"))
    if weight.ndim != 2 or weight.shape[1] != inputs or bias.shape != weight.shape[:1]:
        shapes = f"weight {list(weight.shape)} and bias {list(bias.shape)}"
        raise ValueError(f"{file} has {shapes}, which do not fit an encoder of size {inputs}")
    return {"kernel": np.ascontiguousarray(weight.T), "bias": bias}
