"""adapter_config.json of PEFT: every setting is read, without effect on the output, or refused by name.

References:
    peft.LoraConfig, peft.tuners.tuners_utils.check_target_module_exists, peft.utils.other.get_pattern_key
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxencoder.adapters.lora import LoraConfig
from jaxencoder.families.settings import Settings

# Settings that are read, here or where the heads and the base are.
_READ = {
    *("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "init_lora_weights"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "task_type"),
    *("auto_mapping", "base_model_name_or_path", "revision"),
}
# Settings of training and of other layers than projections, and how the first "a" and "b" were made.
_WITHOUT_EFFECT = {
    *("lora_dropout", "inference_mode", "peft_version", "megatron_config", "megatron_core", "runtime_config"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config", "qalora_group_size"),
    *("fan_in_fan_out", "ensure_weight_tying", "merge_weights"),
}
# Settings that change the output -> the only value that can be read, besides null.
_FIXED = {
    **{"peft_type": "LORA", "bias": "none", "lora_bias": False, "use_qalora": False},
    **dict.fromkeys(("layer_replication", "alora_invocation_tokens", "trainable_token_indices", "target_parameters")),
    **dict.fromkeys(("use_bdlora", "arrow_config", "kasa_config", "monteclora_config", "enable_lora")),
}
_INITS = (True, False, None, "gaussian", "orthogonal", "eva")  # the other ones change the frozen weights


class PeftSettings(NamedTuple):
    """The settings of an adapter. Methods take the path of a module, such as `bert.encoder.layer.0.output.dense`."""

    lora: LoraConfig
    alphas: Mapping[str, float]  # pattern of the end of a module's path -> its alpha
    ranks: Mapping[str, int]
    settings: Settings  # all of adapter_config.json
    source: str  # the folder, for messages

    def alpha(self, path: str) -> float:
        """The module's alpha: of the first pattern that matches."""
        return next((alpha for pattern, alpha in self.alphas.items() if _ends(pattern, path)), self.lora.alpha)

    def rank(self, path: str) -> int:
        """The module's rank."""
        return next((rank for pattern, rank in self.ranks.items() if _ends(pattern, path)), self.lora.rank)

    def excluded_by(self, path: str) -> str:
        """The setting under which PEFT does not adapt a module, or an empty string."""
        excluded, targets = self.settings.get("exclude_modules"), self.settings.get("target_modules")
        if excluded and (re.fullmatch(excluded, path) if isinstance(excluded, str) else _is_named(path, excluded)):
            return "exclude_modules"
        if any(re.match(rf"(^|.*\.){name}($|\..*)", path) for name in self.settings.get("modules_to_save") or ()):
            return "modules_to_save"
        if targets is None or targets == "all-linear":
            return ""
        if isinstance(targets, str):
            return "" if re.fullmatch(targets, path) else "target_modules"
        if not _is_named(path, targets):
            return "target_modules"
        return "" if path in targets or self._is_in_layers(path) else "layers_to_transform"

    def check(self, path: str, shape: tuple[int, ...]) -> None:
        """Raise ValueError for a module that PEFT would leave out, or would give another rank than A's `shape`."""
        if setting := self.excluded_by(path):
            value = self.settings.get(setting)
            raise ValueError(
                f"{self.source} has weights for {path}, which its {setting} {value!r} leaves out; correct one of them"
            )
        if len(shape) == 2 and shape[0] not in (0, self.rank(path)):
            setting = f"rank_pattern {dict(self.ranks)}" if self.ranks else "r"
            asked = f"{setting} asks for {self.rank(path)}"
            raise ValueError(f"{self.source} has {shape[0]} ranks for {path}, but {asked}; correct one of them")

    def _is_in_layers(self, path: str) -> bool:
        layers, patterns = self.settings.get("layers_to_transform"), self.settings.get("layers_pattern")
        if layers is None or layers == []:
            return True
        patterns = [patterns] if isinstance(patterns, str) and patterns else patterns or [r"[^.]*"]
        start = r".*?\." if patterns == [r"[^.]*"] else r"(?:^|.*?\.)"
        matches = (re.match(rf"{start}{pattern}\.(\d+)\.", path) for pattern in patterns)
        layer = next((int(match[1]) for match in matches if match), None)
        return layer == layers if isinstance(layers, int) else layer in layers


def read_settings(settings: Settings, source: str) -> PeftSettings:
    """Read adapter_config.json of the folder `source`; ValueError for a setting that cannot be read."""
    for name, value in settings.items():
        if name in _FIXED and value not in (_FIXED[name], None):
            raise ValueError(f"{source} has {name} {value!r}; only {_FIXED[name]!r} can be loaded")
        if name not in _READ | _WITHOUT_EFFECT | _FIXED.keys() and value not in (None, False, "", [], {}):
            raise ValueError(
                f"{source} has the unknown {name} {value!r} in its adapter_config.json; remove it or merge"
            )
    if (init := settings.get("init_lora_weights", True)) not in _INITS:
        raise ValueError(f"{source} has init_lora_weights {init!r}, which changes the base; convert it to LoRA first")
    try:
        lora = LoraConfig(
            _rank(settings["r"], "r"),
            _number(settings["lora_alpha"], "lora_alpha"),
            rank_stabilized=_flag(settings, "use_rslora"),
            dora=_flag(settings, "use_dora"),
        )
        alphas = _patterns(settings, "alpha_pattern", _number)
        result = PeftSettings(lora, alphas, _patterns(settings, "rank_pattern", _rank), settings, source)
        for name in ("modules_to_save", "exclude_modules", "target_modules"):
            if not isinstance(settings.get(name) or [], list if name == "modules_to_save" else list | str):
                raise TypeError(f"{name} is {settings[name]!r}; a list of names is needed")
        result.excluded_by("")  # compiles the patterns
    except KeyError as error:
        raise ValueError(f"{source} has no {error.args[0]} in its adapter_config.json") from None
    except (AttributeError, OverflowError, TypeError, ValueError, re.error) as error:
        raise ValueError(f"{source} has an adapter_config.json that cannot be read: {error}") from None
    return result


def _patterns(settings: Settings, name: str, read: Any) -> dict[str, Any]:
    patterns = {}
    for key, value in (settings.get(name) or {}).items():
        try:
            re.compile(key)
        except re.error as error:
            raise ValueError(f"{name} holds {key!r}, not a regular expression: {error.msg}") from None
        patterns[key] = read(value, f"{name} for {key!r}")
    return patterns


def _ends(pattern: str, path: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", path) is not None


def _is_named(path: str, names: list[str]) -> bool:
    return path in names or any(path.endswith(f".{name}") for name in names)


def _rank(value: Any, name: str) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} is {value!r}, and an adapter has a rank of 1 or more")
    return value


def _number(value: Any, name: str) -> float:
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"{name} is {value!r}, which is no positive number")
    return float(value)


def _flag(settings: Settings, name: str) -> bool:
    if (value := settings.get(name)) not in (True, False, None):
        raise ValueError(f"{name} is {value!r}; give true or false")
    return bool(value)
