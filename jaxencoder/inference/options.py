"""Options of embeddings."""

from dataclasses import dataclass
from typing import Literal, get_args

from jaxencoder.model.config import Pooling, Role
from jaxencoder.text.config import WindowConfig

COLUMN = "embedding"  # of vectors beside the fields of records
SINGLE_FILES = (".parquet", ".jsonl", ".npy", ".npz")  # extensions of files of vectors

# Of the numbers of a vector: a float, a byte, or a bit; see `jaxencoder.inference.quantize`.
Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]


@dataclass(frozen=True)
class EmbedOptions:
    """How to embed texts. None means: as the model's `sentence` settings say.

    Attributes:
        pooling: one method, or several whose vectors are concatenated: "cls" (the first token), "mean", "max",
            "learned" (a run's own learned pooling) or another of `jaxencoder.model.heads.pool`.
        normalize: scale each vector to length 1, after truncation, so that a dot product is the cosine similarity.
        prompt: name of a stored prompt, or the text to put before each text; "" for no prompt. A single word without
            punctuation is taken as a name. Of a model with adapters for tasks the name also chooses the adapter.
        dimensions: keep this many leading numbers of each vector (Matryoshka). A vector that the model normalizes
            becomes shorter than 1, as in sentence-transformers, unless `normalize` is True.
        windows: split texts longer than `max_length` into overlapping windows; None: truncate them, with one warning.
        batch_tokens: tokens per batch, padding included; memory grows with it. None: 1024 on a CPU, where activations
            should stay in the cache, and 8192 elsewhere.
        max_length: tokens of a text or window, special tokens included; None: the model's `max_length`.
        pool_factor: of a model that gives a vector for each token, keep about 1 / pool_factor of a document's vectors:
            clusters of similar ones, each replaced by its mean.
        max_active_dims: of a sparse model, keep this many of the largest entries of each vector.
        role: whether the texts are queries, for which a model may have a tower, or a sparse one a table, or documents.
            None: as the name of the prompt says, or else as the model does.
    """

    pooling: Pooling | tuple[Pooling, ...] | None = None
    normalize: bool | None = None
    prompt: str | None = None
    dimensions: int | None = None
    windows: WindowConfig | None = None
    batch_tokens: int | None = None
    max_length: int | None = None
    pool_factor: float | None = None
    max_active_dims: int | None = None
    role: Role | None = None

    def role_of_texts(self, default: Role) -> Role:
        """Whether the texts are queries or documents: by the role, by the prompt's name, or else the default."""
        by_prompt: dict[str | None, Role] = {role: role for role in get_args(Role)}
        return self.role or by_prompt.get(self.prompt, default)


DEFAULT_OPTIONS = EmbedOptions()
