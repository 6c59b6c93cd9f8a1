"""Descriptions of the families: architectures in words, counted parameters, and the facts of `About`."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import jax

from jaxencoder.families import FAMILIES
from jaxencoder.families.family import Family, Release
from jaxencoder.families.tables import parameter_shapes
from jaxencoder.model.config import EncoderConfig


@dataclass(frozen=True)
class Size:
    """The size of a published checkpoint.

    Attributes:
        name: repository on the Hugging Face hub.
        layers, hidden_size, mlp_size, heads, vocab_size, max_length: from its architecture.
        parameters: number of parameters of the encoder and, if the family has one, its pooler; no other head.
        embeddings: how many of them are embeddings.
    """

    name: str
    layers: int
    hidden_size: int
    mlp_size: int
    heads: int
    vocab_size: int
    max_length: int
    parameters: int
    embeddings: int


@dataclass(frozen=True)
class Entry:
    """The description of a family.

    Attributes:
        model_type, title, choose_for, tokenizer, objective, text, papers: as in `Family` and `About`.
        architecture: aspect -> description; all descriptions, joined by "or", if the checkpoints differ.
        special: the descriptions that differ from BERT's.
        max_lengths: the checkpoints' maximum lengths in tokens, ascending.
        heads: names of the heads that can be loaded.
        sizes: sizes of the checkpoints, from few parameters to many.
    """

    model_type: str
    title: str
    choose_for: str
    architecture: Mapping[str, str]
    special: tuple[str, ...]
    max_lengths: tuple[int, ...]
    tokenizer: str
    objective: str
    text: str
    heads: tuple[str, ...]
    papers: Mapping[str, str]
    sizes: tuple[Size, ...]


def family_named(name: str) -> Family:
    """The family with this model_type or title, in any case; ValueError for an unknown name."""
    for family in FAMILIES:
        if name.lower() in (family.model_type, family.about.title.lower()):
            return family
    raise ValueError(f"unknown family {name!r}; choose one of {', '.join(family.model_type for family in FAMILIES)}")


def overview() -> list[Entry]:
    """All families, each with the sizes of its smallest and its largest checkpoint."""
    ends = ((family, family.about.releases) for family in FAMILIES)
    return [entry(family, (*releases[:1], *releases[1:][-1:])) for family, releases in ends]


def everything() -> list[Entry]:
    """All families, with the sizes of all checkpoints."""
    return [entry(family) for family in FAMILIES]


def entry(family: Family, releases: Iterable[Release] | None = None) -> Entry:
    """Describe a family.

    Args:
        family: one of FAMILIES.
        releases: the checkpoints to count the parameters of, 0.2 seconds each; None: all.
    """
    about = family.about
    configs = [family.encoder_config(release.settings) for release in about.releases]
    descriptions = [architecture(config) for config in configs]
    words = {aspect: ", or ".join(dict.fromkeys(d[aspect] for d in descriptions)) for aspect in _ASPECTS}
    bert = architecture(EncoderConfig())
    return Entry(
        model_type=family.model_type,
        title=about.title,
        choose_for=about.choose_for,
        architecture=words,
        special=tuple(text for aspect, text in words.items() if text != bert[aspect]),
        max_lengths=tuple(sorted({config.max_length for config in configs})),
        tokenizer=about.tokenizer,
        objective=about.objective,
        text=about.text,
        heads=("mlm_head", *family.heads(configs[0], about.releases[0].settings)),
        papers=about.papers,
        sizes=tuple(_size(family, release) for release in (about.releases if releases is None else releases)),
    )


def architecture(config: EncoderConfig) -> dict[str, str]:
    """An architecture in words, without sizes and lengths: aspect -> description."""
    return {aspect: describe(config) for aspect, describe in _ASPECTS.items()}


def _size(family: Family, release: Release) -> Size:
    config = family.encoder_config(release.settings)
    heads = family.heads(config, release.settings)
    shapes = parameter_shapes(config, False, {name: heads[name].config for name in ("pooler",) if name in heads})
    return Size(
        name=release.name,
        layers=config.num_layers,
        hidden_size=config.hidden_size,
        mlp_size=config.mlp_size,
        heads=config.num_heads,
        vocab_size=config.vocab_size,
        max_length=config.max_length,
        parameters=sum(x.size for x in jax.tree.leaves(shapes)),
        embeddings=sum(x.size for x in jax.tree.leaves(shapes["encoder"]["embeddings"])),
    )


def _positions(c: EncoderConfig) -> str:
    words = "no positions" if c.positions == "none" else f"{c.positions} positions"
    if c.positions == "rotary" and c.rotary_values:
        words += ", also of values"
    if c.rope_scaling != "none":
        words += f", scaled for longer texts ({c.rope_scaling}, {c.rope_factor:g} times)"
    return words + (f" and {c.relative_bias_buckets} buckets of relative biases" if c.relative_bias_buckets else "")


def _attention(c: EncoderConfig) -> str:
    if c.disentangled:
        names = {"c2p": "contents with distances", "p2c": "distances with contents"}
        span = f"buckets up to {c.max_distance}" if c.max_distance else "distances"
        terms = " and ".join(names[term] for term in c.disentangled)
        return f"global attention that compares {terms}, {c.position_buckets} {span} to either side"
    near = " or ".join(str(side) for side in sorted(set(c.windows) - {0})) + " tokens to either side"
    num_global, period = c.windows.count(0), len(c.windows)
    if num_global == period:
        return "global attention"
    if num_global:
        return f"global attention in {num_global} of {period} layers, else {near}"
    return f"attention to {near}" + (" and to global tokens, which attend to all" if c.global_tokens else "")


def _keys_and_values(c: EncoderConfig) -> str:
    shared = c.num_heads // c.kv_heads
    return "each head has its own keys and values" if shared == 1 else f"{shared} heads share keys and values"


def _norm(c: EncoderConfig) -> str:
    words = f"{c.norm_placement}-norm" + (" with RMS norm" if c.norm == "rms" else "")
    words += "" if c.first_attention_norm else ", none before the first attention"
    words += ", also of the distances" if c.relative_embedding_norm else ""
    return words + ("" if c.embedding_norm else ", none of the embeddings")


def _mlp(c: EncoderConfig) -> str:
    name = {"gelu": "GELU", "gelu_tanh": "GELU (tanh)"}.get(c.activation, c.activation.replace("_", " "))
    return {"gelu": "GeGLU", "silu": "SwiGLU"}.get(c.activation, f"gated {name}") if c.gated_mlp else name


def _biases(c: EncoderConfig) -> str:
    flags = {"attention": c.attention_bias, "MLP": c.mlp_bias, "norms": c.norm_bias}
    biased = [name for name, bias in flags.items() if bias]
    if len(biased) == len(flags):
        return "biases everywhere" + ("" if c.key_bias else " but in keys")
    return f"biases in {' and '.join(biased)} only" if biased else "no biases"


def _token_types(c: EncoderConfig) -> str:
    return {0: "no token types", 1: "one token type"}.get(c.token_types, f"{c.token_types} token types")


def _embeddings(c: EncoderConfig) -> str:
    return f"embeddings of {c.embedding_size} dimensions" if c.embedding_size else "embeddings as wide as the layers"


def _layers(c: EncoderConfig) -> str:
    if c.conv_kernel_size:
        return f"a convolution over {c.conv_kernel_size} tokens parallel to the first layer"
    if not c.num_layer_groups:
        return "each layer has its own parameters"
    sets = "their parameters" if c.num_layer_groups == 1 else f"{c.num_layer_groups} sets of parameters"
    return f"all layers share {sets}"


def _output(c: EncoderConfig) -> str:
    return "output table is the token table" if c.tied_output else "separate output table"


_ASPECTS: dict[str, Callable[[EncoderConfig], str]] = {
    "positions": _positions,
    "attention": _attention,
    "keys and values": _keys_and_values,
    "norm": _norm,
    "MLP": _mlp,
    "biases": _biases,
    "token types": _token_types,
    "embeddings": _embeddings,
    "layers": _layers,
    "output": _output,
}
