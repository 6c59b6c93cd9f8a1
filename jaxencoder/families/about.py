"""What there is to know of each family: its published settings in words, their sizes counted, and its `About`."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import jax

from jaxencoder.families import FAMILIES
from jaxencoder.families.family import Family, Release
from jaxencoder.families.shapes import parameter_shapes
from jaxencoder.model.config import EncoderConfig

_GATED = {"gelu": "GeGLU", "silu": "SwiGLU"}


@dataclass(frozen=True)
class Size:
    """A published checkpoint.

    Attributes:
        name: on the hub.
        layers, hidden_size, mlp_size, heads, vocab_size: of its architecture.
        max_length: tokens of a text.
        parameters: of the encoder and, where the family has one, its pooler; no other head.
        embeddings: of these, those of the embeddings.
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
    """A family.

    Attributes:
        model_type: of config.json, and its name here.
        title: as its paper writes it.
        choose_for: what it is a good choice for.
        architecture: what about it -> in words; where its checkpoints differ, all of it, with "or".
        special: of these words, those that are not BERT's.
        max_lengths: tokens of a text, ascending; several where its checkpoints differ.
        tokenizer, objective, text: as in `About`.
        heads: those that can be loaded.
        papers: what they are about -> arXiv number.
        sizes: of its checkpoints, from few parameters to many.
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
    """The family of a model_type or a title, in any case; ValueError for another name."""
    for family in FAMILIES:
        if name.lower() in (family.model_type, family.about.title.lower()):
            return family
    known = ", ".join(family.model_type for family in FAMILIES)
    raise ValueError(f"no family is called {name!r}; there are {known}")


def overview() -> list[Entry]:
    """Every family, with the sizes of its smallest and its largest checkpoint."""
    ends = ((family, family.about.releases) for family in FAMILIES)
    return [entry(family, (*releases[:1], *releases[1:][-1:])) for family, releases in ends]


def everything() -> list[Entry]:
    """Every family, with the sizes of all its checkpoints."""
    return [entry(family) for family in FAMILIES]


def entry(family: Family, releases: Iterable[Release] | None = None) -> Entry:
    """What there is to know of a family.

    Args:
        family: one of FAMILIES.
        releases: whose sizes are counted, which takes a fifth of a second each; None: all.
    """
    about = family.about
    configs = [family.encoder_config(release.settings) for release in about.releases]
    words = _joined([architecture(config) for config in configs])
    baseline = architecture(EncoderConfig())
    return Entry(
        model_type=family.model_type,
        title=about.title,
        choose_for=about.choose_for,
        architecture=words,
        special=tuple(text for name, text in words.items() if text != baseline[name]),
        max_lengths=tuple(sorted({config.max_length for config in configs})),
        tokenizer=about.tokenizer,
        objective=about.objective,
        text=about.text,
        heads=("mlm_head", *family.heads(configs[0], about.releases[0].settings)),
        papers=about.papers,
        sizes=tuple(_size(family, release) for release in (about.releases if releases is None else releases)),
    )


def architecture(config: EncoderConfig) -> dict[str, str]:
    """An architecture in words: what about it -> how it is. Sizes and lengths are not among them."""
    return {name: say(config) for name, say in _WORDS.items()}


def _size(family: Family, release: Release) -> Size:
    config = family.encoder_config(release.settings)
    heads = family.heads(config, release.settings)
    pooler = {name: table.config for name, table in heads.items() if name == "pooler"}
    shapes = parameter_shapes(config, False, pooler)
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


def _joined(descriptions: list[dict[str, str]]) -> dict[str, str]:
    return {name: ", or ".join(dict.fromkeys(words[name] for words in descriptions)) for name in descriptions[0]}


def _positions(c: EncoderConfig) -> str:
    words = "no positions of its own" if c.positions == "none" else f"{c.positions} positions"
    if c.positions == "rotary" and c.rotary_values:
        words += ", of values too"
    if c.rope_scaling != "none":
        words += f", scaled for longer texts ({c.rope_scaling}, {c.rope_factor:g} times)"
    return words + (f" and {c.relative_bias_buckets} buckets of relative biases" if c.relative_bias_buckets else "")


def _attention(c: EncoderConfig) -> str:
    if c.disentangled:
        names = {"c2p": "contents with distances", "p2c": "distances with contents"}
        terms, furthest = " and ".join(names[term] for term in c.disentangled), c.max_distance
        span = f"{c.position_buckets} buckets up to {furthest}" if furthest else f"{c.position_buckets} distances"
        return f"global attention that compares {terms}, {span} to either side"
    near = " or ".join(str(side) for side in sorted(set(c.windows) - {0})) + " tokens to either side"
    whole, every = c.windows.count(0), len(c.windows)
    if whole == every:
        return "global attention"
    if whole:
        return f"global attention in {whole} of {every} layers, else {near}"
    return f"attention to {near}" + (" and to global tokens, which attend to all" if c.global_tokens else "")


def _keys_and_values(c: EncoderConfig) -> str:
    shared = c.num_heads // c.kv_heads
    return "each head has its own keys and values" if shared == 1 else f"{shared} heads share keys and values"


def _norm(c: EncoderConfig) -> str:
    words = f"{c.norm_placement}-norm" + (" by RMS norm" if c.norm == "rms" else "")
    words += "" if c.first_attention_norm else ", none before the first"
    words += ", one of the distances" if c.relative_embedding_norm else ""
    return words + ("" if c.embedding_norm else ", none of the embeddings")


def _mlp(c: EncoderConfig) -> str:
    name = {"gelu": "GELU", "gelu_tanh": "GELU by tanh"}.get(c.activation, c.activation.replace("_", " "))
    return _GATED.get(c.activation, f"gated {name}") if c.gated_mlp else name


def _biases(c: EncoderConfig) -> str:
    places = {"attention": c.attention_bias, "MLP": c.mlp_bias, "norms": c.norm_bias}
    there = [name for name, bias in places.items() if bias]
    if len(there) == len(places):
        return "biases everywhere" + ("" if c.key_bias else " but in keys")
    return f"biases in {' and '.join(there)} only" if there else "no biases"


def _token_types(c: EncoderConfig) -> str:
    return {0: "no token types", 1: "one token type"}.get(c.token_types, f"{c.token_types} token types")


def _embeddings(c: EncoderConfig) -> str:
    return f"embeddings {c.embedding_size} wide" if c.embedding_size else "embeddings as wide as the layers"


def _layers(c: EncoderConfig) -> str:
    if c.conv_kernel_size:
        return f"a convolution over {c.conv_kernel_size} tokens beside the first layer"
    if not c.num_layer_groups:
        return "each layer has its own parameters"
    return "all layers share " + (
        "their parameters" if c.num_layer_groups == 1 else f"{c.num_layer_groups} sets of parameters"
    )


def _output(c: EncoderConfig) -> str:
    return "output table is the token table" if c.tied_output else "output table of its own"


_WORDS: dict[str, Callable[[EncoderConfig], str]] = {
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
