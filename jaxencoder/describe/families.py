"""Descriptions of the families: architectures in words, counted parameters, and the facts of `About`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import jax

from jaxencoder.describe.format import format_count, format_pairs, format_table
from jaxencoder.families import FAMILIES
from jaxencoder.families.family import Family
from jaxencoder.families.tables import parameter_shapes
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.flops import unused_parameters


@dataclass(frozen=True)
class Size:
    """The size of a published checkpoint."""

    name: str  # of its repository on the Hugging Face hub
    layers: int
    hidden_size: int
    mlp_size: int
    heads: int
    vocab_size: int
    max_length: int
    parameters: int  # of the encoder and, if the family has one, its pooler; no other head
    active: int  # parameters that a token uses, without those of other experts
    embeddings: int


@dataclass(frozen=True)
class Entry:
    """The description of a family, with the facts of its `About`."""

    model_type: str
    title: str
    choose_for: str
    architecture: Mapping[str, str]  # aspect -> description; all of them, joined by "or", if the checkpoints differ
    special: tuple[str, ...]  # the descriptions that differ from BERT's
    max_lengths: tuple[int, ...]  # the checkpoints' maximum lengths in tokens, ascending
    tokenizer: str
    objective: str
    text: str
    heads: tuple[str, ...]  # names of those that can be loaded
    papers: Mapping[str, str]
    sizes: tuple[Size, ...]  # of the checkpoints, from few parameters to many


def families_named(name: str) -> list[Family]:
    """The family of this title, else those of this model_type, else those whose names begin so, in any case.

    ValueError if there are none.
    """
    name = name.lower()
    for matches in (
        [family for family in FAMILIES if family.about.title.lower() == name],
        [family for family in FAMILIES if family.model_type == name],
        [x for x in FAMILIES if x.model_type.startswith(name) or x.about.title.lower().startswith(name)],
    ):
        if matches:
            return matches
    model_types = dict.fromkeys(family.model_type for family in FAMILIES)
    raise ValueError(f"unknown family {name!r}; choose one of {', '.join(model_types)}")


def overview() -> list[Entry]:
    """All families, each with the sizes of its smallest and its largest checkpoint."""
    families = [(family, list(family.about.releases)) for family in FAMILIES]
    return [entry(family, dict.fromkeys((*names[:1], *names[-1:]))) for family, names in families]


def entry(family: Family, names: Iterable[str] | None = None) -> Entry:
    """Describe a family, with the sizes of the named releases (0.2 seconds each), or of all."""
    about = family.about
    settings = list(about.releases.values())
    configs = [family.encoder_config(x) for x in settings] or [family.architecture]
    descriptions, bert = [architecture(config) for config in configs], architecture(EncoderConfig())
    words = {aspect: ", or ".join(dict.fromkeys(x[aspect] for x in descriptions)) for aspect in bert}
    return Entry(
        model_type=family.model_type,
        architecture=words,
        special=tuple(text for aspect, text in words.items() if text != bert[aspect]),
        max_lengths=tuple(sorted({config.max_length for config in configs})),
        heads=("mlm_head", *family.heads(configs[0], settings[0] if settings else {})),
        sizes=tuple(_size(family, name) for name in (about.releases if names is None else names)),
        title=about.title,
        choose_for=about.choose_for,
        tokenizer=about.tokenizer,
        objective=about.objective,
        text=about.text,
        papers=about.papers,
    )


def _size(family: Family, name: str) -> Size:
    settings = family.about.releases[name]
    config = family.encoder_config(settings)
    heads = family.heads(config, settings)
    shapes = parameter_shapes(config, False, {name: heads[name].config for name in ("pooler",) if name in heads})
    parameters = sum(x.size for x in jax.tree.leaves(shapes))
    return Size(
        name=name,
        layers=config.num_layers,
        heads=config.num_heads,
        parameters=parameters,
        active=parameters - unused_parameters(config),
        embeddings=sum(x.size for x in jax.tree.leaves(shapes["encoder"]["embeddings"])),
        hidden_size=config.hidden_size,
        mlp_size=config.mlp_size,
        vocab_size=config.vocab_size,
        max_length=config.max_length,
    )


def architecture(c: EncoderConfig) -> dict[str, str]:
    """An architecture in words, without sizes and lengths: aspect -> description."""
    types, size, shared = c.token_types, c.embedding_size, c.num_heads // c.kv_heads
    return {
        "positions": _positions(c),
        "attention": _attention(c),
        "keys and values": (f"{shared} heads share" if shared > 1 else "each head has its own") + " keys and values",
        "norm": _norm(c),
        "MLP": _mlp(c),
        "biases": _biases(c),
        "token types": {0: "no token types", 1: "one token type"}.get(types, f"{types} token types")
        + (f" and {c.task_types} tasks" if c.task_types else ""),
        "embeddings": "embeddings "
        + (f"of {size} dimensions" if size else "as wide as the layers")
        + (", times the root of that width" if c.scaled_embeddings else "")
        + (", zero for masked tokens" if c.zeroed_token else ""),
        "layers": _layers(c),
        "output": "output table is the token table" if c.tied_output else "separate output table",
    }


def _positions(c: EncoderConfig) -> str:
    words = "no positions" if c.positions == "none" else f"{c.positions} positions"
    if c.positions == "rotary" and c.rotary_values:
        words += ", also of values"
    if c.rope_scaling != "none":
        words += f", scaled for longer texts ({c.rope_scaling}, {c.rope_factor:g} times)"
    biases = f" and {c.relative_bias_buckets} buckets of relative biases" if c.relative_bias_buckets else ""
    return words + biases + (" of each layer" if c.relative_bias_by_layer else "")


def _attention(c: EncoderConfig) -> str:
    if c.disentangled:
        names = {"c2p": "contents with distances", "p2c": "distances with contents"}
        span = f"buckets up to {c.max_distance}" if c.max_distance else "distances"
        terms = " and ".join(names[term] for term in c.disentangled)
        return f"global attention that compares {terms}, {c.position_buckets} {span} to either side"
    near = " or ".join(str(side) for side in sorted(set(c.windows) - {0}))
    near += " tokens before it" if c.causal else " tokens to either side"
    kind = "causal" if c.causal else "global"
    num_global, period = c.windows.count(0), len(c.windows)
    if num_global == period:
        return f"{kind} attention"
    if num_global:
        return f"{kind} attention in {num_global} of {period} layers, else {near}"
    return f"attention to {near}" + (" and to global tokens, which attend to all" if c.global_tokens else "")


def _norm(c: EncoderConfig) -> str:
    words = f"{c.norm_placement}-norm" + (" with RMS norm" if c.norm == "rms" else "")
    words += "" if c.first_attention_norm else ", none before the first attention"
    words += ", also of queries and keys" if c.qk_norm else ""
    words += ", also of the distances" if c.relative_embedding_norm else ""
    return words + ("" if c.embedding_norm else ", none of the embeddings")


def _mlp(c: EncoderConfig) -> str:
    words = {"gelu": "GELU", "gelu_tanh": "GELU (tanh)"}.get(c.activation, c.activation.replace("_", " "))
    if c.gated_mlp:
        words = {"gelu": "GeGLU", "silu": "SwiGLU"}.get(c.activation, f"gated {words}")
    if not c.num_experts:
        return words
    layers = f"{len(c.expert_layers)} of {len(c.windows)} layers"
    return f"{words}, in {layers} a mixture of {c.num_experts} experts, {c.experts_per_token} for each token"


def _biases(c: EncoderConfig) -> str:
    flags = {"attention": c.attention_bias, "MLP": c.mlp_bias, "norms": c.norm_bias}
    biased = [name for name, bias in flags.items() if bias]
    if len(biased) == len(flags):
        missing = {"keys": c.key_bias, "the projections up and gate": c.mlp_input_bias}
        without = " and ".join(name for name, bias in missing.items() if not bias)
        return "biases everywhere" + (f" but in {without}" if without else "")
    return f"biases in {' and '.join(biased)} only" if biased else "no biases"


def _layers(c: EncoderConfig) -> str:
    if c.conv_kernel_size:
        return f"a convolution over {c.conv_kernel_size} tokens parallel to the first layer"
    if not c.num_layer_groups:
        return "each layer has its own parameters"
    return f"all layers share {'their' if c.num_layer_groups == 1 else f'{c.num_layer_groups} sets of'} parameters"


def format_families(entries: Sequence[Entry]) -> str:
    """A table with one row per family."""
    rows = []
    for entry in entries:
        parameters = _range(format_count(size.parameters) for size in entry.sizes)
        lengths = _range(f"{length:,}" for length in entry.max_lengths)
        special = "; ".join((*(entry.special or entry.architecture.values()), entry.tokenizer, entry.objective))
        rows.append((entry.model_type, parameters, lengths, special, entry.choose_for))
    header = ("family", "parameters", "tokens", "what is special", "choose it for")
    return format_table(header, rows, gap=1) + "\n\njaxencoder families NAME shows one with its checkpoints and papers."


def format_family(entry: Entry) -> str:
    """One family with its checkpoints and papers."""
    papers = ", ".join(f"arXiv:{number} ({paper})" for paper, number in entry.papers.items())
    common = "; ".join(text for text in entry.architecture.values() if text not in entry.special)
    facts = {
        "family": f"{entry.title} ({entry.model_type})",
        "choose it for": entry.choose_for,
        "architecture": "; ".join(entry.special) or common,
        **({"as in BERT": common} if entry.special else {}),
        "tokenizer": entry.tokenizer,
        "objective": entry.objective,
        "text": entry.text,
        "heads": ", ".join(entry.heads),
        **({"papers": papers} if papers else {}),
    }
    header = ("checkpoint", "layers x width", "heads", "vocabulary", "tokens", "parameters", "embeddings")
    rows = []
    for x in entry.sizes:
        sizes = (f"{x.layers} x {x.hidden_size}", str(x.heads), f"{x.vocab_size:,}", f"{x.max_length:,}")
        active = f" ({format_count(x.active)} active)" if x.active < x.parameters else ""
        rows.append((x.name, *sizes, format_count(x.parameters) + active, format_count(x.embeddings)))
    table = "\n\n" + format_table(header, rows, right=range(1, len(header))) if rows else ""
    return format_pairs(facts) + table


def _range(texts: Iterable[str]) -> str:
    """The first to the last; only one if all are equal, and a question mark for none."""
    texts = list(dict.fromkeys(texts)) or ["?"]
    return texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"
