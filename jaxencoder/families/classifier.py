"""A run's text classifier as the heads of a family, in both directions, if those compute the same.

The classifier pools, applies a projection and tanh, and projects to classes. With the first token's vector that is
BERT's pooler and classifier, or RoBERTa's classifier. The heads of other families have another activation or a norm.
Without the first projection it is the classifier of decoders, with the last token's vector.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from jaxencoder.families.family import Family, Settings
from jaxencoder.families.labels import with_labels
from jaxencoder.families.tables import Params
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig, HeadInputs
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

NAME = "classifier"  # of its parameters: {"dense": ..., "classifier": ...}, or "classifier" alone


def head_slots(
    heads: Mapping[str, HeadConfig], pooling: str, transform: bool = True
) -> dict[str, tuple[str, str]] | None:
    """The (head, projection) that corresponds to each part of the classifier; None if no head computes the same.

    BERT: {"dense": ("pooler", "dense"), "classifier": ("sequence_head", "output")}.
    """
    projection = ("sequence_head", "output")
    # Global tokens agree, because a run that pools the first token makes it global; and padding, which a run does not
    # pool, unless texts end with its token: see `texts_end_with`.
    independent = {"outputs": 0, "global_tokens": "none", "separator": None, "pad_id": None}
    transforms = {name: replace(x, **independent) for name, x in heads.items()}
    pooler, sequence_head = transforms.get("pooler"), transforms.get("sequence_head")
    if not transform:
        return {"classifier": projection} if sequence_head == transform_config(pooling, False) else None
    if sequence_head == transform_config(pooling):
        return {"dense": ("sequence_head", "dense"), "classifier": projection}
    if sequence_head in (None, HeadConfig("pooled")) and pooler == transform_config(pooling):
        return {"dense": ("pooler", "dense"), "classifier": projection}
    return None


def to_heads(classifier: Params, pooling: str, heads: Mapping[str, HeadConfig]) -> Params | None:
    """The parameters of the family's heads; None if the family has no equivalent classifier."""
    params: Params = {}
    for part, (head, projection) in (head_slots(heads, pooling, "dense" in classifier) or {}).items():
        params.setdefault(head, {})[projection] = classifier[part]
    return params if params and params.keys() <= heads.keys() else None


def from_heads(
    params: Params, pooling: str, heads: Mapping[str, HeadConfig], transform: bool = True
) -> dict[str, tuple[str, Params]]:
    """The parts of the classifier that heads hold: name -> (path among the heads, arrays).

    A pooler alone among `params` gives "dense" alone; `heads` are the family's; `transform` is whether the classifier
    has its first projection.
    """
    slots = (head_slots(heads, pooling, transform) or {}).items()
    return {part: (f"{head}/{name}", params[head][name]) for part, (head, name) in slots if head in params}


def transform_config(pooling: str, transform: bool = True) -> HeadConfig:
    """The classifier without its projection to classes. A pooling that heads do not have equals no head's inputs."""
    inputs = cast(HeadInputs, pooling)
    return HeadConfig(inputs, activation="tanh") if transform else HeadConfig(inputs, output_bias=False)


def scoring_heads(
    family: Family | None, encoder: EncoderConfig, settings: Settings | None = None
) -> dict[str, HeadConfig]:
    """The heads by which a family scores texts, with one output: "sequence_head", after "pooler" if it has one.

    `settings` are those of a config.json; None: the family's own. Without a family, or for one that classifies no
    texts, the head is RoBERTa's.
    """
    tables = {}
    if family is not None:
        tables = family.heads(encoder, with_labels({**family.settings(encoder), **(settings or {})}, 1))
    if "sequence_head" not in tables:
        return {"sequence_head": HeadConfig("cls", 1, "tanh")}
    names = ("pooler", "sequence_head") if tables["sequence_head"].config.inputs == "pooled" else ("sequence_head",)
    return {name: tables[name].config for name in names}


def texts_end_with(tokenizer: Tokenizer | None, token_id: int | None) -> bool:
    """Whether each text ends with this token, such as the padding that decoders' heads pass over, and runs do not."""
    if tokenizer is None or token_id is None:
        return False
    return bool(tokenizer.encode_batch(["a"])[0].ids[-1] == token_id)
