"""The record of a model: all that is read from and written to disk."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from jaxencoder.adapters.lora import TaskAdapter
from jaxencoder.config import RunConfig
from jaxencoder.families.labels import label_names
from jaxencoder.families.published import Published
from jaxencoder.model.config import Pooling
from jaxencoder.model.cross_encoder import CrossEncoderConfig
from jaxencoder.model.heads import HeadConfig
from jaxencoder.model.multi_vector import MultiVectorConfig
from jaxencoder.model.sentence import SentenceConfig
from jaxencoder.objectives.objective import Params
from jaxencoder.tasks.table import task_of_model
from jaxencoder.text.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model's configuration, parameters and tokenizer, and where they come from."""

    config: RunConfig  # for a published checkpoint only `model`, `name` and `data.row_length` are meaningful
    params: Params  # float32, {"encoder": ..., "mlm_head": ...} or {"encoder": ..., "classifier": ...}
    tokenizer: Tokenizer | None  # None: the checkpoint came without one and can only be called with token ids
    published: Published | None = None  # family, config.json and heads of a published checkpoint; None for a run
    sentence: SentenceConfig = field(default_factory=SentenceConfig)  # of embeddings; its modules: params["sentence"]
    multi_vector: MultiVectorConfig | None = None  # of a vector for each token; its modules: params["multi_vector"]
    tasks: Mapping[str, TaskAdapter] = field(default_factory=dict)  # name of a prompt -> the adapter for its task
    cross_encoder: CrossEncoderConfig | None = None  # of one that scores pairs: published, or Reranking's
    queries: "Checkpoint | None" = None  # the tower for queries, of a model whose own encoder is for documents alone
    generator: "Checkpoint | None" = None  # of replaced-token detection: the masked language model that fills the masks
    base: "Checkpoint | None" = field(default=None, repr=False)  # that an adapter was added to; shares its arrays
    step: int | None = None  # of training, of a run's checkpoint

    @property
    def heads(self) -> Mapping[str, HeadConfig]:
        """The model's heads by their names in `params`, without the masked-language-model head."""
        if self.published is not None:
            return self.published.heads
        heads = self.config.objective.heads(self.config.model)
        return {name: head for name, head in heads.items() if name in self.params}

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names of a text or token classifier, in order of id; empty for other models and unnamed classes."""
        task = task_of_model(self)
        if task is None or not task.schema.names_classes:
            return ()
        return self.config.objective.class_labels if self.published is None else label_names(self.published.settings)

    @property
    def max_length(self) -> int:
        """Longest text in tokens, special tokens included: the longest position that training has reached.

        Learned positions beyond the rows of training are still random. A run's rotary positions extrapolate to the
        model's full length. A published model may read longer texts than its config.json has positions.
        """
        model, longest = self.config.model, max(phase.data.text_limit for phase in self.config.phase_configs)
        if self.published is None and model.positions == "rotary":
            return model.max_length
        return longest if self.published and model.positions != "learned" else min(model.max_length, longest)

    def sentence_config(
        self,
        pooling: Pooling | tuple[Pooling, ...] | None = None,
        normalize: bool | None = None,
        dimensions: int | None = None,
    ) -> SentenceConfig:
        """The settings of embeddings, with those that are given replaced; ValueError for one that does not fit."""
        if self.sentence.sparse is not None:
            for name, value in {"pooling": pooling, "normalize": normalize, "dimensions": dimensions}.items():
                if value is not None:
                    raise ValueError(f"{name} is {value!r}, but this model gives sparse vectors; leave it out")
            return self.sentence
        methods = (pooling,) if isinstance(pooling, str) else tuple(pooling or self.sentence.pooling)
        for method in methods:
            if method not in get_args(Pooling):
                raise ValueError(f"pooling is {method!r}; give one of {', '.join(get_args(Pooling))}")
        if "learned" in methods and pooling_query(self.params) is None:
            raise ValueError(
                "pooling is 'learned', but this run has learned none; give cls, mean or max, "
                "or train with --objective.pooling learned"
            )
        config = replace(self.sentence, pooling=methods)
        size = config.size(self.config.model.hidden_size)
        if dimensions is not None and not 1 <= dimensions <= size:
            raise ValueError(f"dimensions is {dimensions}, but the vectors have {size}; give 1 to {size}")
        config = replace(config, dimensions=dimensions or config.dimensions)
        if normalize is None:
            return config
        is_truncated = config.dimensions is not None
        return replace(config, normalize=normalize, renormalize=normalize and is_truncated)


def load_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer in a folder; ValueError if it has more tokens than the model."""
    tokenizer = Tokenizer.load(folder, vocab_size)
    if (size := tokenizer.vocab_size) > vocab_size:
        mismatch = f"{size} tokens, but the model has only {vocab_size}"
        raise ValueError(f"the tokenizer in {folder} has {mismatch}; it belongs to another model")
    return tokenizer


def pooling_query(params: Params) -> Any:
    """The query [D] of a learned pooling of tokens, or None."""
    return params.get("classifier", {}).get("pooling_query")
