"""Encoder-only transformers in JAX: pretrain, load, fine-tune, evaluate, embed and export BERT and its successors.

The names below are the public API. Each is imported at its first use, so that `import jaxencoder` itself is cheap.
"""

from etils import epy

from jaxencoder.version import __version__

# A reload keeps the globals, and lazy_api_imports defines these two only where they are not defined.
globals().pop("__getattr__", None)
globals().pop("__dir__", None)
with epy.lazy_api_imports(globals()):
    from jaxencoder.api import Model, load
    from jaxencoder.bulk.config import BulkConfig
    from jaxencoder.bulk.embed import embed_folder
    from jaxencoder.bulk.embedder import Embedder
    from jaxencoder.config import (
        Classification,
        ComputeConfig,
        DataConfig,
        Embeddings,
        EncoderConfig,
        LoraConfig,
        MaskedLM,
        Masking,
        MeshConfig,
        MultipleChoice,
        MultiVectors,
        OptimizerConfig,
        Phase,
        QuestionAnswering,
        ReplacedToken,
        Reranking,
        RunConfig,
        SparseEmbeddings,
        TokenClassification,
        TokenizerConfig,
        TrainingConfig,
    )
    from jaxencoder.mining.config import MiningConfig, MiningData
    from jaxencoder.mining.mine import mine
    from jaxencoder.training.loop import train
del epy

__all__ = [
    "BulkConfig", "Classification", "ComputeConfig", "DataConfig", "Embedder", "Embeddings", "EncoderConfig",
    "LoraConfig", "MaskedLM", "Masking", "MeshConfig", "MiningConfig", "MiningData", "Model", "MultiVectors",
    "MultipleChoice", "OptimizerConfig", "Phase", "QuestionAnswering", "ReplacedToken", "Reranking", "RunConfig",
    "SparseEmbeddings", "TokenClassification", "TokenizerConfig", "TrainingConfig", "__version__", "embed_folder",
    "load", "mine", "train",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
