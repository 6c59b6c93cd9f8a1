"""Descriptions of the families: every family and every choice has one, and the counts are the published counts."""

import dataclasses
import re

import pytest

from jaxencoder.describe import families
from jaxencoder.describe.families import Entry, architecture, entry, families_named, overview
from jaxencoder.families import FAMILIES
from jaxencoder.model.config import EncoderConfig

# Parameters as transformers' AutoModel counts them.
PUBLISHED = {
    "google/bert_uncased_L-2_H-128_A-2": 4_385_920,
    "sentence-transformers/all-MiniLM-L6-v2": 22_713_216,
    "google/bert_uncased_L-4_H-512_A-8": 28_763_648,
    "google-bert/bert-base-uncased": 109_482_240,
    "google-bert/bert-base-multilingual-cased": 177_853_440,
    "google-bert/bert-large-uncased": 335_141_888,
    "distilbert/distilbert-base-uncased": 66_362_880,
    "distilbert/distilbert-base-multilingual-cased": 134_734_080,
    "jhu-clsp/ettin-encoder-17m": 16_797_440,
    "jhu-clsp/ettin-encoder-68m": 68_144_640,
    "jhu-clsp/mmBERT-small": 140_493_696,
    "answerdotai/ModernBERT-base": 149_014_272,
    "jhu-clsp/mmBERT-base": 306_939_648,
    "answerdotai/ModernBERT-large": 394_781_696,
    "distilbert/distilroberta-base": 82_118_400,
    "FacebookAI/roberta-base": 124_645_632,
    "FacebookAI/roberta-large": 355_359_744,
    "FacebookAI/xlm-roberta-base": 278_043_648,
    "FacebookAI/xlm-roberta-large": 559_890_432,
    "BAAI/bge-m3": 567_754_752,
    "almanach/camembert-base": 110_621_952,
    "almanach/camembert-large": 336_661_504,
    "google/electra-small-discriminator": 13_483_008,
    "google/electra-base-discriminator": 108_891_648,
    "google/electra-large-discriminator": 334_092_288,
    "albert/albert-base-v2": 11_683_584,
    "albert/albert-large-v2": 17_683_968,
    "albert/albert-xlarge-v2": 58_724_864,
    "albert/albert-xxlarge-v2": 222_595_584,
    "microsoft/mpnet-base": 109_486_464,
    "sentence-transformers/all-mpnet-base-v2": 109_486_464,
    "nomic-ai/nomic-bert-2048": 136_731_648,
    "nomic-ai/nomic-embed-text-v1.5": 136_731_648,
    "nomic-ai/nomic-embed-text-v2-moe": 475_292_928,
    "EuroBERT/EuroBERT-210m": 211_766_016,
    "EuroBERT/EuroBERT-610m": 607_874_688,
    "EuroBERT/EuroBERT-2.1B": 2_107_590_912,
    "microsoft/deberta-base": 138_601_728,
    "microsoft/deberta-large": 405_163_008,
    "microsoft/deberta-xlarge": 757_804_032,
    "microsoft/deberta-v3-xsmall": 70_682_112,
    "microsoft/deberta-v3-small": 141_304_320,
    "microsoft/deberta-v3-base": 183_831_552,
    "microsoft/mdeberta-v3-base": 278_218_752,
    "microsoft/deberta-v3-large": 434_012_160,
    "microsoft/deberta-v2-xlarge": 884_593_152,
    "microsoft/deberta-v2-xxlarge": 1_564_549_632,
    "chandar-lab/NeoBERT": 221_665_536,
    "allenai/longformer-base-4096": 148_659_456,
    "allenai/longformer-large-4096": 434_600_960,
    "Alibaba-NLP/gte-base-en-v1.5": 136_776_192,
    "Alibaba-NLP/gte-multilingual-base": 305_368_320,
    "Alibaba-NLP/gte-large-en-v1.5": 434_139_136,
    "Snowflake/snowflake-arctic-embed-m-v2.0": 305_368_320,
    # Without the heads, and positions in the files that no version reads.
    "facebook/esm2_t6_8M_UR50D": 7_840_794 - 103_514 - 328_320,
    "facebook/esm2_t33_650M_UR50D": 652_356_534 - 1_642_934 - 1_313_280,
    "google/embeddinggemma-300m": 302_863_104,
    "sentence-transformers/gtr-t5-base": 109_628_544,
    "sentence-transformers/gtr-t5-large": 334_939_648,
    "google/umt5-small": 150_153_216,
    "google/umt5-base": 281_861_376,
    "google/mt5-small": 146_940_608,
    "google/mt5-base": 277_040_256,
    "jinaai/jina-embeddings-v2-small-en": 32_690_688,
    "jinaai/jina-embeddings-v2-base-en": 137_368_320,
    "jinaai/jina-embeddings-v3-hf": 559_364_096,
    # Without the adapters.
    "jinaai/jina-embeddings-v5-text-nano": 211_766_016,
    "jinaai/jina-embeddings-v5-text-small": 596_049_920,
    "facebook/xlm-roberta-xl": 3_475_929_600,
    "andreasmadsen/efficient_mlm_m0.40": 355_361_792,
    "UFNLP/gatortron-base": 355_267_584,
    "nghuyong/ernie-3.0-base-zh": 117_944_832,
    "Qwen/Qwen3-Embedding-0.6B": 595_776_512,
    "Qwen/Qwen3-Embedding-4B": 4_021_774_336,
    "Qwen/Qwen3-Embedding-8B": 7_567_295_488,
    "princeton-nlp/Sheared-LLaMA-1.3B": 1_279_887_360,
    "intfloat/e5-mistral-7b-instruct": 7_110_660_096,
    "junnyu/roformer_chinese_small": 29_848_320,
    "junnyu/roformer_chinese_char_base": 94_273_536,
    "junnyu/roformer_chinese_base": 123_457_536,
}
# Differences from those counts as a function of the width: positions that the model never reads, the first layer's norm
# that ModernBERT does not have, and the poolers that AutoModel leaves out.
_SHIFTED = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "roberta-prelayernorm")
DIFFERENCES = dict.fromkeys(_SHIFTED, lambda D: -D) | {
    "xlm-roberta-xl": lambda D: D * D,
    "modernbert": lambda D: D,
    **dict.fromkeys(("esm", "gte", "new", "nomic_bert", "deberta", "deberta-v2"), lambda D: D * D + D),
}
# Fields without a description: sizes, and those of heads and training.
NOT_DESCRIBED = {
    *("vocab_size", "num_layers", "hidden_size", "mlp_size", "num_heads", "max_length", "norm_epsilon"),
    *("position_pad_id", "head_mlp_size"),
    *("rope_theta", "rope_theta_local", "rope_factor", "rope_original_length", "rope_betas", "rope_attention_factor"),
    *("rope_scaling_local", "head_transform", "head_activation", "head_bias", "output_bias"),
    *("dropout", "attention_dropout", "initializer_std"),
    *(
        "rope_half_precision",
        "head_dim",
        "attention_scale",
        "norm_unit_offset",
        "relative_projection",
        "conv_groups",
        "conv_activation",
    ),
    *("bottleneck", "bottleneck_sublayers"),
}
DESCRIBED = {
    "num_kv_heads": 4,
    "embedding_size": 128,
    "num_layer_groups": 1,
    "positions": "rotary",
    "disentangled": ("c2p",),
    "position_buckets": 16,
    "max_distance": 64,
    "relative_embedding_norm": True,
    "conv_kernel_size": 3,
    "relative_bias_buckets": 32,
    "relative_bias_by_layer": True,
    "rotary_values": True,
    "rope_scaling": "linear",
    "windows": (0, 64),
    "global_tokens": True,
    "token_types": 0,
    "task_types": 3,
    "norm": "rms",
    "norm_placement": "pre",
    "causal": True,
    "qk_norm": True,
    "scaled_embeddings": True,
    "zeroed_token": 3,
    "embedding_norm": False,
    "first_attention_norm": False,
    "attention_bias": False,
    "key_bias": False,
    "mlp_bias": False,
    "mlp_input_bias": False,
    "norm_bias": False,
    "activation": "silu",
    "gated_mlp": True,
    "tied_output": False,
    "num_experts": 4,
    "experts_per_token": 3,
    "expert_layers": (1,),
}


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    return [entry(family, list(family.about.releases)[-1:]) for family in FAMILIES]


def check_sizes(described: Entry) -> None:
    difference = DIFFERENCES.get(described.model_type, lambda D: 0)
    for size in described.sizes:
        assert size.parameters == PUBLISHED[size.name] + difference(size.hidden_size), size.name
        assert 0 < size.embeddings < size.parameters


def test_counts_are_the_published(entries: list[Entry]) -> None:
    for described in entries:
        check_sizes(described)


@pytest.mark.parametrize("name", ["google-bert/bert-base-uncased", "FacebookAI/roberta-base"])
def test_the_best_known_counts(name: str) -> None:
    family = next(family for family in FAMILIES if name in family.about.releases)
    check_sizes(entry(family, [name]))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_every_family_has_facts(family) -> None:
    about = family.about
    for name in ("title", "choose_for", "tokenizer", "objective", "text"):
        text = getattr(about, name)
        assert text.strip() == text and text and not text.endswith("."), name
    if family.model_type == "ultrabert":  # its paper and the settings of its checkpoints are not known here
        assert not about.papers and not about.releases
        return
    assert about.papers and all(re.fullmatch(r"\d{4}\.\d{5}", number) for number in about.papers.values())
    names = list(about.releases)
    assert names and all(re.fullmatch(r"[\w.-]+/[\w.-]+", name) for name in names)
    # A new release needs a published number to be compared with; the table goes from few parameters to many.
    numbers = [PUBLISHED[name] for name in names]
    assert numbers == sorted(numbers)


def test_every_choice_has_words() -> None:
    """A new setting is either described in describe/families.py or listed in NOT_DESCRIBED."""
    names = {part.name for part in dataclasses.fields(EncoderConfig)}
    assert names == DESCRIBED.keys() | NOT_DESCRIBED
    for name, value in DESCRIBED.items():
        before = EncoderConfig(positions="rotary" if name in ("rotary_values", "rope_scaling") else "learned")
        if name == "global_tokens":
            before = dataclasses.replace(before, windows=(64,))
        if name in ("num_experts", "experts_per_token", "expert_layers"):
            before = dataclasses.replace(before, windows=(0, 0), num_experts=8, expert_layers=(0, 1))
        if name == "relative_bias_by_layer":
            before = dataclasses.replace(before, relative_bias_buckets=8)
        if name in ("disentangled", "position_buckets", "max_distance", "relative_embedding_norm"):
            before = dataclasses.replace(before, disentangled=("p2c",), position_buckets=8)
        changed = architecture(dataclasses.replace(before, **{name: value}))
        differing = [key for key, words in architecture(before).items() if changed[key] != words]
        assert len(differing) == 1, name


def test_words_come_from_the_published_settings(entries: list[Entry]) -> None:
    by_name = {described.title.lower(): described for described in entries}
    assert by_name["bert"].special == ()
    assert by_name["modernbert"].architecture["attention"] == (
        "global attention in 1 of 3 layers, else 64 tokens to either side"
    )
    assert {"rotary positions", "GeGLU", "no biases"} <= set(by_name["modernbert"].special)
    assert by_name["albert"].architecture["layers"] == "all layers share their parameters"
    assert by_name["mpnet"].special[0] == "learned positions and 32 buckets of relative biases"
    # If checkpoints differ, all descriptions are given.
    assert by_name["eurobert"].architecture["keys and values"].endswith(", or 3 heads share keys and values")
    assert by_name["xlm-roberta"].max_lengths == (512, 8192)
    assert by_name["electra"].heads[:2] == ("mlm_head", "rtd_head")


def test_parameters_of_experts_that_a_token_does_not_use() -> None:
    described = entry(*families_named("Nomic Embed MoE"))
    (size,) = described.sizes
    assert size.parameters - size.active == 6 * 6 * 2 * 768 * 3072
    assert described.architecture["MLP"] == "GELU, in 1 of 2 layers a mixture of 8 experts, 2 for each token"
    assert all(part in families.format_family(described) for part in ("(306M", "active)"))


def test_overview_has_the_smallest_and_the_largest(monkeypatch) -> None:
    monkeypatch.setattr(families, "FAMILIES", tuple(families_named("bert")))
    (described,) = overview()
    assert [size.name for size in described.sizes] == [
        "google/bert_uncased_L-2_H-128_A-2",
        "google-bert/bert-large-uncased",
    ]


def test_names() -> None:
    def titles(name: str) -> list[str]:
        return [family.about.title for family in families_named(name)]

    assert titles("ModernBERT") == titles("modernbert") == titles("modern") == ["ModernBERT"]
    assert titles("bert") == ["BERT"] and titles("nomic bert") == ["Nomic BERT"]
    assert titles("nomic") == titles("nomic_bert") == ["Nomic BERT", "Nomic Embed MoE"]
    with pytest.raises(ValueError, match="unknown family 'gpt2'; choose one of bert, "):
        families_named("gpt2")
