"""Small models of transformers with random weights and a tokenizer, for comparisons with sentence-transformers."""

import json
from pathlib import Path
from typing import Any

import pytest

from jaxencoder.text.config import TokenizerConfig
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.tokenizers.training import train_tokenizer

D = 24
TEXTS = ["A man is playing a guitar.", "", "Zwei Hunde laufen im Schnee. " * 60, "naïve café — 東京 🙂 ΣΟΦΟΣ İ"]
SHORT = ["A man is playing a Guitar.", "", "two dogs run [MASK] in the Snow", "the man"]
SIZES = dict(hidden_size=D, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40)
FAMILIES = {
    "bert": ("wordpiece", dict(max_position_embeddings=64)),
    "modernbert": ("bpe", dict(local_attention=8)),
    "xlm-roberta": ("unigram", dict(max_position_embeddings=70, type_vocab_size=1)),
}
OTHERS = {
    "mpnet": ("unigram", dict(max_position_embeddings=70)),
    "t5": ("unigram", dict(d_model=D, num_layers=2, num_heads=3, d_kv=8, d_ff=40, n_positions=16)),
}


def save_peer(name: str, folder: Path, auto_class: str = "AutoModel", **more: Any) -> Path:
    """Write a model of a family into a folder, with more settings of config.json; returns the folder."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    kind, settings = (FAMILIES | OTHERS)[name]
    config = TokenizerConfig(kind=kind, vocab_size=300, lowercase=False, min_frequency=1)
    tokenizer = train_tokenizer([*SHORT, *TEXTS, "query: passage: Represent this sentence: "] * 3, config)
    tokenizer.save(folder)
    if kind == "unigram":
        tokenizer = with_padding_second(folder)
    ids = dict(pad_token_id=tokenizer.pad_id, bos_token_id=tokenizer.cls_id, eos_token_id=tokenizer.sep_id)
    ids |= dict(cls_token_id=tokenizer.cls_id, sep_token_id=tokenizer.sep_id) if name == "modernbert" else {}
    settings = SIZES | settings | ids | more
    config = transformers.AutoConfig.for_model(name, **settings, vocab_size=tokenizer.vocab_size)
    model = getattr(transformers, auto_class).from_config(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight_name, weight in model.named_parameters():
            center = float("norm" in weight_name.lower() and weight_name.endswith("weight"))
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator) + center)
    model.save_pretrained(folder)
    return folder


def with_padding_second(folder: Path) -> Tokenizer:
    """XLM-R and MPNet count positions from the padding's id, which is 1; here 0 and 1 change places."""
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"][:2] = content["model"]["vocab"][1::-1]
    content["model"]["unk_id"] = {0: 1, 1: 0}[content["model"]["unk_id"]]
    for token in content["added_tokens"]:
        token["id"] = {0: 1, 1: 0}.get(token["id"], token["id"])
    content["added_tokens"].sort(key=lambda token: token["id"])
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return Tokenizer.load(folder)
