"""UltraBERT: EuroBERT's block with ModernBERT's windows, and a head of two projections.

Published by the DMIS laboratory (https://huggingface.co/dmis-lab/UltraBERT-150M).
"""

import dataclasses

from jaxencoder.families import decoder
from jaxencoder.families.eurobert import EUROBERT
from jaxencoder.families.family import About, Family, Heads, head, plain_heads
from jaxencoder.families.labels import labels
from jaxencoder.families.layer_types import GLOBAL, LOCAL, layer_types, layer_windows
from jaxencoder.families.modernbert import of_both_kinds
from jaxencoder.families.rotary import rope_parameters, rotary_fields, rotary_settings
from jaxencoder.families.settings import SIZES, Entry, Fields, Settings, choice, read_choice, read_value, same
from jaxencoder.families.tables import with_prefix
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig

_THETAS = {GLOBAL: 2_560_000.0, LOCAL: 10_000.0}
_SIDE = 128


def _kinds(settings: Settings, fields: Fields) -> list[str]:
    """The kind of each layer: of layer_types, of attention_windows in the first files, or global every third layer."""
    windows = settings.get("attention_windows")
    if not isinstance(windows, list | None) or not all(type(x) in (int, type(None)) for x in windows or ()):
        raise ValueError(f"config.json has attention_windows {windows!r}; one window for each layer is needed")
    default = [LOCAL if (i + 1) % 3 else GLOBAL for i in range(fields["num_layers"])]
    from_windows = default if windows is None else [LOCAL if window else GLOBAL for window in windows]
    return settings.get("layer_types") or from_windows


def _read_windows(settings: Settings, fields: Fields) -> Fields:
    kinds, side = _kinds(settings, fields), read_value(settings, "sliding_window", int, _SIDE)
    sides = set(filter(None, settings.get("attention_windows") or ()))
    if len(sides) > 1:
        raise ValueError(f"config.json has attention_windows of the sizes {sorted(sides)}; only one can be loaded")
    return layer_windows(settings, fields, kinds, sides.pop() if sides else side)


def _write_windows(c: EncoderConfig) -> Settings:
    return {"layer_types": layer_types(c), "sliding_window": max(c.windows) or _SIDE}


def _read_rotary(settings: Settings, fields: Fields) -> Fields:
    """Rotary positions of both kinds of layers; the first files have a list of bases, one for each layer."""
    rope, thetas = settings.get("rope_scaling") or settings.get("rope_parameters"), settings.get("rope_theta")
    kinds = _kinds(settings, fields)
    if rope is None and thetas is not None:
        if not isinstance(thetas, list) or [type(x) in (int, float) for x in thetas] != [True] * len(kinds):
            raise ValueError(f"config.json has rope_theta {thetas!r}; one base for each of the {len(kinds)} layers")
        of_kind = {kind: {theta for x, theta in zip(kinds, thetas, strict=True) if x == kind} for kind in _THETAS}
        if several := [kind for kind, values in of_kind.items() if len(values) > 1]:
            advice = "only one can be loaded"
            raise ValueError(f"config.json has rope_theta {thetas} with several bases for {several[0]}; {advice}")
        rope = {kind: {"rope_theta": values.pop()} for kind, values in of_kind.items() if values}
    rope = {kind: {} for kind in _THETAS} if rope is None else rope
    if not isinstance(rope, dict) or not set(kinds) <= rope.keys() <= _THETAS.keys():
        raise ValueError(f"config.json has rope_parameters {rope!r}; an object for each of {GLOBAL} and {LOCAL}")
    layers = {kind: rotary_fields(rope.get(kind) or {}, theta, fields) for kind, theta in _THETAS.items()}
    return of_both_kinds(layers[GLOBAL], layers[LOCAL])


def _write_rotary(c: EncoderConfig) -> Settings:
    rope = {GLOBAL: rope_parameters(c), LOCAL: rope_parameters(c, local=True)}
    return rotary_settings(c, rope) | {"rope_theta": None}


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    pooling = read_choice(settings, "classifier_pooling", "cls", {"cls": "cls", "mean": "mean"})
    classifier = head("sequence_head", HeadConfig(pooling, labels(settings)), output="classifier")
    return classifier | plain_heads(settings, "token_head", "span_head")


ULTRABERT = Family(
    model_type="ultrabert",
    name="Ultrabert",
    prefix="ultrabert.",
    architecture=dataclasses.replace(
        EUROBERT.architecture,
        max_length=32768,
        rope_theta=_THETAS[GLOBAL],
        rope_theta_local=_THETAS[LOCAL],
        windows=(_SIDE, _SIDE, 0),
        norm_epsilon=1e-6,
        head_mlp_size=768,
        head_activation="gelu_tanh",
    ),
    settings_table=(
        *SIZES,
        *decoder.HEADS,
        *decoder.COMMON,
        Entry(_read_windows, _write_windows),
        Entry(_read_rotary, _write_rotary),
        same("attention_bias"),
        same("mlp_bias"),
        choice("hidden_act", "activation"),
        same("prediction_head_size", "head_mlp_size", minimum=1),
    ),
    encoder_table=with_prefix(decoder.ENCODER, "model.", "ultrabert."),
    modules=decoder.ENCODER,
    mlm_head_table={"head.linear1": "mlm_head/up", "head.linear2": "mlm_head/down"},
    heads=_heads,
    tied="cls.weight",
    about=About(
        title="UltraBERT",
        choose_for="English texts of up to 32,768 tokens, in classification and in retrieval",
        tokenizer="that of the folder",
        objective="masked words",
        text="English",
        papers={},
        releases={},  # dmis-lab/UltraBERT-150M and -380M, whose settings are not known here
    ),
    aliases={"model.": "ultrabert.", "head.decoder.": "cls."},  # the modules' names
)
