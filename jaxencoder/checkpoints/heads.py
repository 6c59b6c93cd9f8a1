"""The heads of a folder of transformers: those of the class that config.json names, or else those that its weights are.

The end of a name also says the class, as in MyBertForSequenceClassification or another family's class.
"""

import logging
from collections.abc import Collection

from jaxencoder.checkpoints.weights import Weights
from jaxencoder.families.family import HEADS, Family, Heads, Settings
from jaxencoder.families.labels import label_names, labels, labels_for_outputs
from jaxencoder.families.tables import Weight
from jaxencoder.model.config import EncoderConfig

log = logging.getLogger(__name__)

_TASK_HEADS = (
    "sequence_head",
    "token_head",
    "span_head",
    "choice_head",
)  # of equal names of tensors, the first is read
_WITH_LABELS = ("sequence_head", "token_head")


def named_classes(family: Family, settings: Settings) -> set[str]:
    """The keys of HEADS whose classes config.json names."""
    listed = settings.get("architectures")
    names = [name for name in (listed if isinstance(listed, list) else [listed]) if isinstance(name, str)]
    exact = {key for key in HEADS if family.class_name(key) in names}
    return exact or {key for key in HEADS if any(name.endswith(key) for name in names)}


def output_bias(family: Family) -> str:
    """The name of the output table's bias."""
    return family.tied.removesuffix("weight") + "bias"


def mlm_rows(family: Family, config: EncoderConfig) -> list[Weight]:
    """The rows of the masked-language-model head's weights, with those of a separate output table."""
    rows = list(family.mlm_head(config))
    if not config.tied_output:
        # The table's bias counts; the head's is written only because transformers looks for it.
        biases = [row for row in rows if row.ours == ("mlm_head/bias",) and row.theirs != output_bias(family)]
        rows += [row._replace(theirs=output_bias(family)) for row in biases]
        rows.append(Weight(("mlm_head/table",), family.tied))
    return rows


def has_mlm_head(family: Family, config: EncoderConfig, settings: Settings, tensors: Collection[str] | None) -> bool:
    """Whether a folder has a masked-language-model head; without weights, whether its class does."""
    keys = named_classes(family, settings)
    # In ELECTRA and DeBERTa, ForPreTraining detects replaced tokens and lacks the generator's head.
    has_detector = "rtd_head" in family.heads(config, settings)
    if tensors is None:
        return bool(keys & ({"ForMaskedLM"} if has_detector else {"ForMaskedLM", "ForPreTraining"}))
    names = [row.theirs for row in mlm_rows(family, config)]
    if keys & {"ForMaskedLM", "ForPreTraining"}:
        # transformers leaves a tied table out of its files: a head of nothing else exists if its class is named.
        return any(name in tensors for name in names) or (not names and "ForMaskedLM" in keys)
    return not keys and all(name in tensors for name in names or [family.tied])


def find_heads(
    family: Family,
    config: EncoderConfig,
    settings: Settings,
    tensors: Weights | None,
    source: str,
    extra: Collection[str] = (),
) -> tuple[Heads, Settings]:
    """The other heads of a folder, and its settings with the classes that its weights have.

    Args:
        tensors: the weights by the names of the tables; None: the heads are those of the class in config.json.
        source: the folder, for messages.
        extra: heads to read if the file has them, though the class does not.

    Raises:
        ValueError: names of classes that do not fit the weights.
    """
    tables, keys = family.heads(config, settings), named_classes(family, settings)
    expected = {name for key in keys or ({"ForPreTraining"} if tensors is not None else ()) for name in HEADS[key]}
    present = {
        name for name, table in tables.items() if tensors is None or any(x.theirs in tensors for x in table.weights)
    }
    if tensors is not None and not _is_named(family, config, settings, tensors, (expected & present) - {"pooler"}):
        expected = expected | _by_weights(tables, settings, tensors, source)
    needs_pooler = any(tables[name].config.inputs == "pooled" for name in expected & tables.keys())
    for name in [name for name in tables if name in expected - present and (name != "pooler" or needs_pooler)]:
        log.warning("%s has no weights of its %s, which is left out", source, name.replace("_", " "))
    chosen = [name for name in tables if name in present and (name in expected or name in extra)]
    if "pooler" in chosen:
        chosen = ["pooler", *(name for name in chosen if name != "pooler")]  # first: other heads use its output
    else:
        chosen = [name for name in chosen if tables[name].config.inputs != "pooled"]
    if labeled := [name for name in _WITH_LABELS if name in chosen]:
        settings = labels_for_outputs(settings, _outputs(tables, labeled[0], tensors) or labels(settings))
        tables = family.heads(config, settings)
    return {name: tables[name] for name in chosen}, settings


def class_key(mlm_head: bool, heads: Heads) -> str:
    """The key of HEADS for a model with these heads."""
    if mlm_head:
        return "ForPreTraining" if heads.keys() & {"nsp_head", "rtd_head"} else "ForMaskedLM"
    task_head = next((name for name in heads if name.endswith("_head") and name != "nsp_head"), None)
    if task_head is None:
        return "ForNextSentencePrediction" if "nsp_head" in heads else "Model"
    return next(key for key, names in reversed(HEADS.items()) if task_head in names)


def _is_named(
    family: Family, config: EncoderConfig, settings: Settings, tensors: Weights, heads: Collection[str]
) -> bool:
    """Whether config.json names a class, and the file has one of its heads."""
    named = named_classes(family, settings)
    return bool(named) and (bool(heads) or has_mlm_head(family, config, settings, tensors))


def _by_weights(tables: Heads, settings: Settings, tensors: Weights, source: str) -> set[str]:
    """The task head whose tensors a file has, and the pooler that it needs; warns if several heads have the same."""
    fitting = []
    for name in filter(tables.__contains__, _TASK_HEADS):
        needed = [name, "pooler"] if tables[name].config.inputs == "pooled" else [name]
        is_complete = all(row.theirs in tensors for part in needed for row in tables[part].weights)
        if is_complete and (name in _WITH_LABELS or _outputs(tables, name, tensors) == tables[name].config.outputs):
            fitting.append(name)
    if not fitting:
        return set()
    if "token_head" in fitting and _names_are_tags(settings):
        fitting = sorted(fitting, key=lambda name: name != "token_head")
    if len(fitting) > 1:
        first, second = (name.replace("_", " ") for name in fitting[:2])
        advice = "name its class in config.json's architectures"
        log.warning("%s has weights of a %s, which is read, or of a %s; %s", source, first, second, advice)
    return {fitting[0], "pooler"} if tables[fitting[0]].config.inputs == "pooled" else {fitting[0]}


def _names_are_tags(settings: Settings) -> bool:
    try:
        return any(name.startswith(("B-", "I-")) for name in label_names(settings))
    except ValueError:
        return False


def _outputs(tables: Heads, name: str, tensors: Weights | None) -> int | None:
    """The outputs of a head's weights."""
    row = next(row for row in tables[name].weights if row.ours == (f"{name}/output/kernel",))
    return tensors.shape(row.theirs)[0] if tensors is not None and row.theirs in tensors else None
