"""The output of `jaxencoder families`."""

from collections.abc import Iterable, Sequence

from jaxencoder.describe.families import Entry
from jaxencoder.describe.format import format_count, format_pairs, format_table


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
    common = [text for text in entry.architecture.values() if text not in entry.special]
    architecture = {"architecture": "; ".join(entry.special), "as in BERT": "; ".join(common)}
    facts = {
        "family": f"{entry.title} ({entry.model_type})",
        "choose it for": entry.choose_for,
        **(architecture if entry.special else {"architecture": "; ".join(common)}),
        "tokenizer": entry.tokenizer,
        "objective": entry.objective,
        "text": entry.text,
        "heads": ", ".join(entry.heads),
        "papers": ", ".join(f"arXiv:{number} ({paper})" for paper, number in entry.papers.items()),
    }
    header = ("checkpoint", "layers x width", "heads", "vocabulary", "tokens", "parameters", "embeddings")
    rows = [
        (
            size.name,
            f"{size.layers} x {size.hidden_size}",
            str(size.heads),
            f"{size.vocab_size:,}",
            f"{size.max_length:,}",
            format_count(size.parameters),
            format_count(size.embeddings),
        )
        for size in entry.sizes
    ]
    return format_pairs(facts) + "\n\n" + format_table(header, rows, right=range(1, len(header)))


def _range(texts: Iterable[str]) -> str:
    """The first to the last; only one if all are equal."""
    texts = list(dict.fromkeys(texts))
    return texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"
