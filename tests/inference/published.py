"""Tiny models of transformers with random weights and heads for tasks, with a tokenizer, in folders."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxencoder.text.tokenizer import Encoding, Tokenizer
from tests.families import peers

# Heads of texts on the pooler, the first token, the mean, and the mean of transformed tokens.
SETTINGS: dict[str, dict[str, Any]] = {
    "bert": {"max_position_embeddings": 64},
    "distilbert": {"max_position_embeddings": 64},
    "modernbert": {"classifier_pooling": "mean", "max_position_embeddings": 64},
    "eurobert": {"max_position_embeddings": 64},
    "longformer": {"max_position_embeddings": 66},
}


def published(family: str, kind: str, tokenizer: Tokenizer, folder: Path, **settings: Any) -> Any:
    """The torch model of a class such as ForSequenceClassification, which is now in the folder too."""
    ids = {"pad_token_id": tokenizer.pad_id, "sep_token_id": tokenizer.sep_id, "vocab_size": tokenizer.vocab_size}
    model = peers.torch_model(family, peers.MODELS[family][0] | SETTINGS[family] | ids | settings, kind)
    peers.saved(model, folder)
    tokenizer.save(folder)
    return model


def torch_outputs(model: Any, encodings: list[Encoding], kind: str) -> list[dict[str, np.ndarray]]:
    """What torch computes of each text alone, by our names."""
    found = []
    for encoding in encodings:
        batch = {"input_ids": encoding.ids, "token_type_ids": encoding.type_ids}
        batch = {name: np.asarray(x, np.int64)[None] for name, x in batch.items()}
        batch["attention_mask"] = np.ones_like(batch["input_ids"])
        batch = {name: np.pad(x, ((0, 0), (0, 5))) for name, x in batch.items()}  # padded
        found.append({name: x[0] for name, x in peers.theirs(model, peers.accepted(model, batch, kind), kind).items()})
    return found
