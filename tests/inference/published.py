"""Tiny models of transformers with random weights and heads for tasks, with a tokenizer, in folders."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxencoder.text.tokenizers.tokenizer import Encoding, Tokenizer
from tests.families import peers

PAD = 1  # of RoBERTa's relatives
SHIFTED = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer")


def published(family: str, kind: str, tokenizer: Tokenizer, folder: Path, **settings: Any) -> Any:
    """The torch model of a class such as ForSequenceClassification, which is in the folder too, with a tokenizer."""
    tokenizer.save(folder)
    if family in SHIFTED:
        as_roberta(folder / "tokenizer.json")
    found = Tokenizer.load(folder)
    ids = {"pad_token_id": found.pad_id, "sep_token_id": found.sep_id, "vocab_size": found.vocab_size}
    ids |= {"max_position_embeddings": 64 + (PAD + 1 if found.pad_id == PAD else 0)}
    model = peers.torch_model(family, peers.MODELS[family][0] | ids | settings, kind)
    peers.saved(model, folder)
    return model


def as_roberta(file: Path) -> None:
    """A tokenizer's padding with the id that RoBERTa has for it, and two separators between texts of one type."""
    content = json.loads(file.read_text())
    first, second = (token["content"] for token in content["added_tokens"][:2])
    content["model"]["vocab"] |= {first: PAD, second: 0}
    content["added_tokens"][:2] = [content["added_tokens"][i] | {"id": 1 - i} for i in (1, 0)]
    pair = content["post_processor"]["pair"]
    pair.insert(2, pair[2])
    for part in pair:
        next(iter(part.values()))["type_id"] = 0
    file.write_text(json.dumps(content))


def torch_outputs(model: Any, encodings: list[Encoding], kind: str) -> list[dict[str, np.ndarray]]:
    """What torch computes of each text alone, padded, by our names."""
    found = []
    for encoding in encodings:
        batch = {"input_ids": (encoding.ids, model.config.pad_token_id), "token_type_ids": (encoding.type_ids, 0)}
        batch |= {"attention_mask": (np.ones_like(encoding.ids), 0)}
        rows = {name: np.pad(x.astype(int), (0, 5), constant_values=pad)[None] for name, (x, pad) in batch.items()}
        found.append({name: x[0] for name, x in peers.theirs(model, peers.accepted(model, rows, kind), kind).items()})
    return found
