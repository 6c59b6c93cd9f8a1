"""Folders of sentence-transformers shaped as EmbeddingGemma and Qwen3-Embedding: tokenizer, pooling, Dense, prompts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import jaxencoder

TEXTS = ["The quick brown fox", "jumps over lazy dogs", "déjà vu, and cats!", "a"]
PROMPTS = {"query": "task: search result | query: ", "document": "title: none | text: "}
SIZES = dict(hidden_size=24, num_hidden_layers=4, num_attention_heads=3, intermediate_size=40, num_key_value_heads=1)
# transformers' defaults for these families have other sizes of heads.
GEMMA = dict(SIZES, head_dim=16, query_pre_attn_scalar=16, sliding_window=6, use_bidirectional_attention=True)
QWEN = dict(SIZES, head_dim=16)


def gemma_tokenizer() -> Tokenizer:
    """BPE with bytes, between <bos> and <eos>."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    return tokenizer


def qwen_tokenizer() -> Tokenizer:
    """Byte-level BPE that ends a text with <|endoftext|>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<unk>", "<cls>", "<sep>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    return tokenizer


SPECIAL = {
    "gemma3_text": dict(bos_token="<bos>", cls_token="<bos>", eos_token="<eos>", sep_token="<eos>", pad_token="<pad>"),
    "qwen3": dict(eos_token="<|endoftext|>", pad_token="<|endoftext|>", cls_token="<cls>", sep_token="<sep>"),
}


def transformers_folder(family: str, settings: dict[str, Any], tokenizer: Tokenizer, folder: Path) -> Path:
    import torch
    import transformers

    special = SPECIAL[family] | {"unk_token": "<unk>", "mask_token": "<mask>"}
    side = "left" if family == "qwen3" else "right"
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side=side, **special)
    fast.save_pretrained(folder)
    config = transformers.AutoConfig.for_model(family, vocab_size=len(fast), pad_token_id=0, **settings)
    model = transformers.AutoModel.from_config(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", ["gemma3_text", "qwen3"])
def test_vectors_equal_sentence_transformers(family: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    is_gemma = family == "gemma3_text"
    settings, tokenizer = (GEMMA, gemma_tokenizer()) if is_gemma else (QWEN, qwen_tokenizer())
    folder = transformers_folder(family, settings, tokenizer, tmp_path / "transformers")
    parts = [modules.Transformer(str(folder)), modules.Pooling(24, "mean" if is_gemma else "lasttoken")]
    if is_gemma:
        sizes = ((24, 40), (40, 24))
        parts += [modules.Dense(*size, bias=False, activation_function=torch.nn.Identity()) for size in sizes]
    model = library.SentenceTransformer(modules=[*parts, modules.Normalize()], prompts=PROMPTS)
    model.save(str(tmp_path / "theirs"))
    expected = model.encode(TEXTS, prompt_name="query")
    loaded = jaxencoder.load(tmp_path / "theirs", dtype="float32")
    np.testing.assert_allclose(loaded.embed(TEXTS, prompt="query"), expected, atol=1e-5)
    assert loaded.config.model.causal != is_gemma
    written = json.loads((tmp_path / "transformers" / "config.json").read_text())
    assert loaded.published.family.encoder_config(written) == loaded.config.model
