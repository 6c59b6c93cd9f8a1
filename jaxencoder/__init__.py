"""Encoder-only transformers in JAX: pretrain, load, fine-tune, evaluate, embed and export BERT and its successors.

The names below are the public API. Each is imported at its first use, so that `import jaxencoder` itself is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from jaxencoder.version import __version__

if TYPE_CHECKING:  # for editors and type checkers; at run time __getattr__ imports the same names
    from jaxencoder.api import Model, load
    from jaxencoder.config import (
        Classification,
        ComputeConfig,
        DataConfig,
        EncoderConfig,
        LoraConfig,
        MaskedLM,
        Masking,
        MeshConfig,
        MultipleChoice,
        OptimizerConfig,
        Phase,
        QuestionAnswering,
        ReplacedToken,
        RunConfig,
        TokenClassification,
        TokenizerConfig,
        TrainingConfig,
    )
    from jaxencoder.training.loop import train

__all__ = [
    "Classification",
    "ComputeConfig",
    "DataConfig",
    "EncoderConfig",
    "LoraConfig",
    "MaskedLM",
    "Masking",
    "MeshConfig",
    "Model",
    "MultipleChoice",
    "OptimizerConfig",
    "Phase",
    "QuestionAnswering",
    "ReplacedToken",
    "RunConfig",
    "TokenClassification",
    "TokenizerConfig",
    "TrainingConfig",
    "__version__",
    "load",
    "train",
]
_MODULES = {"Model": "api", "load": "api", "train": "training.loop"}  # of all other names: config


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"jaxencoder.{_MODULES.get(name, 'config')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
