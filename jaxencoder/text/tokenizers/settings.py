"""What a folder says of its tokenizer: its class, and each key of its settings applied, without effect or refused.

The files are tokenizer_config.json, special_tokens_map.json, added_tokens.json and config.json's tokenizer_class. Where
they disagree, the order of transformers 5 decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken

from jaxencoder.files import read_json
from jaxencoder.text.tokenizers.classes import (
    CLASS_TOKENS,
    FIXED_TOKENS,
    TokenizerClass,
    class_name,
    tokenizer_class,
)
from jaxencoder.text.tokenizers.encoding import ROLES

CONFIG = "tokenizer_config.json"
_MAP, _ADDED = "special_tokens_map.json", "added_tokens.json"


class SpecialToken(NamedTuple):
    """A special token that a key names, and whether the folder gives its flags."""

    token: AddedToken
    has_flags: bool


# Keys that a class may apply -> the types of their values. null stands for the default.
_TYPES = {
    **dict.fromkeys(("do_lower_case", "tokenize_chinese_chars", "strip_accents", "add_prefix_space"), bool),
    **dict.fromkeys(
        ("trim_offsets", "keep_accents", "split_by_punct", "do_word_tokenize", "do_subword_tokenize", "legacy"), bool
    ),
    **dict.fromkeys(("word_tokenizer_type", "subword_tokenizer_type"), str),
    **dict.fromkeys(("mecab_kwargs", "sudachi_kwargs", "jumanpp_kwargs"), dict),
    "never_split": list,
}
_ROLE_KEYS = tuple(f"{role}_token" for role in (*ROLES, "bos", "eos"))
_TOKEN_LISTS = ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens")
# Read in this module.
_READ_HERE = (
    *("tokenizer_class", "auto_map", "added_tokens_decoder", *_TOKEN_LISTS),
    *("model_max_length", "max_len", "truncation_side", "model_input_names"),
)
# Keys that would change ids -> the values that do not.
_HARMLESS_VALUES = {
    "split_special_tokens": (False,),
    "sp_model_kwargs": ({},),
    "init_inputs": ([],),
    "fast_tokenizer_files": ([], ["tokenizer.json"]),
    "fix_mistral_regex": (False,),
    "wordpieces_prefix": ("##",),
    "remove_space": (True,),
}
_WITHOUT_EFFECT = frozenset(
    (
        # Padding is masked, so its side and amount change nothing, and rows decide the lengths.
        *("padding_side", "padding", "pad_token_type_id", "pad_to_multiple_of", "stride", "truncation", "max_length"),
        *("truncation_strategy", "pad_token_type", "return_tensors"),
        # Tokenizers of Hugging Face's library ignore these settings of the older ones in Python.
        *("do_basic_tokenize", "clean_text", "legacy", "vocab_type", "unk_id", "extra_ids"),
        *("use_fast", "from_slow", "do_nfkc", "spaces_between_special_tokens", "tokenizer_type", "vocab_size"),
        # The template of the class, or that of tokenizer.json, decides; see `published` for those that have neither.
        *("add_bos_token", "add_eos_token", "add_special_tokens", "max_seq_length"),
        # Only decoding reads these.
        *("clean_up_tokenization_spaces", "errors", "skip_special_tokens"),
        "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
        # Files are found by their usual names.
        *("name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file", "merges_file", "spm_file"),
        *("full_tokenizer_file", "added_tokens_file", "files_loaded", "is_local", "local_files_only", "backend"),
        # Arguments of downloads and of processors, chats, and notes of the writer.
        *("processor_class", "image_processor_type", "feature_extractor_type", "chat_template", "chat_control_tokens"),
        *("response_template", "response_schema", "use_default_system_prompt", "verbose", "transformers_version"),
        *("trust_remote_code", "use_auth_token", "token", "revision", "cache_dir", "subfolder", "_commit_hash"),
        *("force_download", "resume_download", "proxies", "device", "device_map", "torch_dtype", "dtype", "task"),
        *("language", "model_type", "architectures", "config", "_name_or_path", "low_cpu_mem_usage", "do_basic"),
        # transformers stores all arguments of `from_pretrained`, which may be a model's too.
        *("num_labels", "id2label", "label2id", "problem_type", "output_hidden_states", "output_attentions"),
        *("attn_implementation", "ignore_mismatched_sizes", "from_pt", "from_tf", "use_safetensors", "use_cache"),
        *("gradient_checkpointing", "quantization_config", "load_in_8bit", "tie_word_embeddings", "_from_auto"),
        *("max_position_embeddings", "hidden_size", "finetuning_task", "max_len_single_sentence", "padding_strategy"),
        *("return_token_type_ids", "return_attention_mask", "return_special_tokens_mask", "return_length"),
        *("return_offsets_mapping", "return_overflowing_tokens", "replace_word_delimiter_char"),
        *("query_maxlen", "doc_maxlen"),
        # Of models of pages and of translation.
        *("only_label_first_subword", "apply_ocr", "src_lang", "tgt_lang", "cls_token_box", "sep_token_box"),
        *("pad_token_box", "pad_token_label", "use_regex", "lang", "do_rescale", "do_resize"),
    )
)


@dataclass(frozen=True)
class TokenizerSettings:
    """The settings of a folder's tokenizer, checked."""

    class_name: str  # as written, or that of the model_type; "" if neither is given
    model_type: str  # of config.json
    family: str  # of TokenizerClass
    model: str  # of TokenizerClass
    options: Mapping[str, Any]  # the keys that the class applies and the folder gives
    # Role -> its token of the settings or of the class, None where the folder says that there is none.
    names: Mapping[str, str | None]
    special_tokens: tuple[SpecialToken, ...]  # named by any key
    added_tokens: Mapping[int, AddedToken] = field(default_factory=dict)  # with the ids that the folder gives them
    max_length: int = 0  # limit on the tokens of a text, 0 for none
    truncation_side: str = ""  # "right", "left" or, if the folder does not say, ""
    has_segments: bool = True  # False: pairs have no type ids
    loses_segments: bool = False  # as has_segments, though no setting says so and the model has several type ids
    has_decoder: bool = False  # whether added_tokens_decoder gives the added tokens
    source: str = ""  # the folder, for messages


def read_settings(folder: Path, has_tokenizer_json: bool) -> TokenizerSettings:
    """Read and check the settings in a folder; ValueError names the key, its value and what to do."""
    file, config = folder / CONFIG, _content(folder / "config.json")
    settings = _content(file)
    extra_tokens, files = settings.get("extra_special_tokens"), dict.fromkeys(settings, file)
    if settings.get("added_tokens_decoder") is None:
        # transformers reads these older files only where the newer key is missing; the map wins over the settings.
        tokens_map = _content(folder / _MAP)
        if settings.get("additional_special_tokens"):
            tokens_map.pop("additional_special_tokens", None)
        settings |= tokens_map
        files |= dict.fromkeys(tokens_map, folder / _MAP)
        added = [(number, token) for token, number in _content(folder / _ADDED).items()]
        if isinstance(extra_tokens, list) and isinstance(more := tokens_map.get("extra_special_tokens"), list):
            settings["extra_special_tokens"] = [*extra_tokens, *(token for token in more if token not in extra_tokens)]
        origin = folder / _ADDED
    else:
        decoder, origin = settings["added_tokens_decoder"], file
        if not isinstance(decoder, dict):
            raise ValueError(f"{file} has added_tokens_decoder {decoder!r}; ids and tokens are needed")
        added = list(decoder.items())
    name, is_named = class_name(settings, config, file, has_tokenizer_json)
    kind = tokenizer_class(name, is_named, folder, has_tokenizer_json)
    _check_keys(settings, kind, files)
    _check_fixed(settings, kind.family, has_tokenizer_json, file)
    special_tokens = _special_tokens(settings, file)
    has_segments = _has_segments(settings, kind.has_segments or not config, file)
    return TokenizerSettings(
        class_name=name,
        model=kind.model,
        model_type=str(config.get("model_type") or ""),
        family=kind.family,
        options={key: settings[key] for key in kind.reads if settings.get(key) is not None},
        names=_names(settings, kind.family),
        special_tokens=tuple(special_tokens),
        added_tokens=_added_tokens(added, {item.token.content for item in special_tokens}, origin),
        max_length=_max_length(settings, file),
        truncation_side=_truncation_side(settings, file),
        has_segments=has_segments,
        loses_segments=not has_segments and _has_several(config) and settings.get("model_input_names") is None,
        has_decoder=settings.get("added_tokens_decoder") is not None,
        source=str(folder),
    )


def _content(file: Path) -> dict[str, Any]:
    return read_json(file, dict) if file.is_file() else {}


def _check_keys(settings: Mapping[str, Any], kind: TokenizerClass, files: Mapping[str, Path]) -> None:
    """ValueError for a key that is not understood, and for a value of another type; `files` are those of the keys."""
    # Classes with steps of their own take null for false, or fail.
    takes_null = kind.family in ("", "file", "japanese")
    for key, value in settings.items():
        problem = f"{files[key]} has {key} {value!r}"
        if key in kind.reads:
            is_null = value is None and (takes_null or key == "strip_accents")
            if not is_null and not isinstance(value, _TYPES[key]):
                expected = "true or false" if _TYPES[key] is bool else f"a {_TYPES[key].__name__}"
                raise ValueError(f"{problem}; {expected} is needed")
        elif key in _HARMLESS_VALUES:
            if value is not None and value not in _HARMLESS_VALUES[key]:
                raise ValueError(f"{problem}, which is not supported and would change the token ids")
        elif not _is_known(key, value):
            advice = "remove it if it does not change the token ids"
            raise ValueError(f"{problem}, a setting that is not known; {advice}")


def _check_fixed(settings: Mapping[str, Any], family: str, has_tokenizer_json: bool, file: Path) -> None:
    """ValueError for what the SentencePiece families and HerBERT can read only one value of."""
    fixed: dict[str, Any] = {f"{role}_token": token for role, token in FIXED_TOKENS.get(family, {}).items()}
    if "unk_token" in fixed and not has_tokenizer_json:
        fixed["add_prefix_space"] = True
    for key, value in fixed.items():
        is_free = settings.get(key) is None and (key not in settings or family == "esm")  # ESM has no sep_token
        if not is_free and _text(settings[key]) != value:
            raise ValueError(f"{file} has {key} {settings[key]!r}; only {value!r} is supported with this class")
    if "unk_token" in fixed and not has_tokenizer_json and settings.get("mask_token", "") is None:
        raise ValueError(f"{file} has mask_token null, which is not supported with this class; name its token")
    adding = [key for key in ("add_bos_token", "add_eos_token") if key in settings]
    if family == "albert" and adding and not has_tokenizer_json:
        raise ValueError(f"{file} has {adding[0]}, which changes ALBERT's special tokens and is not supported")


def _is_known(key: str, value: Any) -> bool:
    return (
        value is None
        or key in _READ_HERE
        or key in _TYPES
        or key in _WITHOUT_EFFECT
        or key.endswith(("_token", "_token_id"))
    )


def _names(settings: Mapping[str, Any], family: str) -> dict[str, str | None]:
    """The token of each role that the settings or the class names."""
    named = {role: _text(settings[f"{role}_token"]) for role in ROLES if f"{role}_token" in settings}
    fixed = {role: token for role, token in FIXED_TOKENS.get(family, {}).items() if role in ROLES}
    return {**CLASS_TOKENS.get(family, {}), **named, **fixed}


def _text(token: Any) -> str | None:
    """The content of a token written as a string or as an object."""
    return token.get("content") if isinstance(token, dict) else token


def _special_tokens(settings: Mapping[str, Any], file: Path) -> list[SpecialToken]:
    """The tokens of all roles and lists, in the order in which transformers adds them."""
    keys = [key for key in settings if key.endswith("_token") and key not in _WITHOUT_EFFECT]
    # Flags such as add_sep_token are none, and transformers passes over them.
    tokens = [(key, settings[key]) for key in keys if not isinstance(settings[key], bool) or key in _ROLE_KEYS]
    for key in _TOKEN_LISTS:
        value = settings.get(key) or ()
        if key == "additional_special_tokens" and settings.get("extra_special_tokens"):
            continue  # its newer name wins
        if not isinstance(value, list | dict | tuple):
            raise ValueError(f"{file} has {key} {value!r}; a list of tokens is needed")
        tokens += [(key, token) for token in (value.values() if isinstance(value, dict) else value)]
    return [
        SpecialToken(_token(value, key, file, special=True), isinstance(value, dict))
        for key, value in tokens
        if value is not None
    ]


def _added_tokens(added: list[tuple[Any, Any]], special: set[str], file: Path) -> dict[int, AddedToken]:
    tokens = {}
    for number, value in added:
        if isinstance(number, bool) or not str(number).isdecimal():
            raise ValueError(f"{file} has the id {number!r}; an integer of at least 0 is needed")
        tokens[int(number)] = _token(value, "an added token", file, special=_text(value) in special)
    return dict(sorted(tokens.items()))


def _token(value: Any, key: str, file: Path, special: bool) -> AddedToken:
    """A token from a string or an object of flags; a special token is matched in the text as it is written."""
    flags = {"content": value} if isinstance(value, str) else dict(value) if isinstance(value, dict) else {}
    flags = {name: flag for name, flag in flags.items() if name not in ("__type", "id")}
    unknown = flags.keys() - {"content", "lstrip", "rstrip", "single_word", "normalized", "special"}
    content = flags.pop("content", None)
    if not isinstance(content, str) or not content or unknown or not all(isinstance(x, bool) for x in flags.values()):
        raise ValueError(f"{file} has {key} {value!r}; a token with lstrip, rstrip, single_word, normalized is needed")
    flags["special"] = special or flags.get("special", False)
    return AddedToken(content, **flags)


def _max_length(settings: Mapping[str, Any], file: Path) -> int:
    """model_max_length; transformers writes 1e30 for none."""
    key = "model_max_length" if settings.get("model_max_length") is not None else "max_len"
    length = settings.get(key)
    if length is None:
        return 0
    if isinstance(length, bool) or not isinstance(length, int | float) or length < 3 or length != length:
        advice = "at least 3 tokens are needed: [CLS], one, [SEP]"
        raise ValueError(f"{file} has {key} {length!r}, a maximal length of texts; {advice}")
    return 0 if length > 1e9 else int(length)


def _has_segments(settings: Mapping[str, Any], default: bool, file: Path) -> bool:
    names = settings.get("model_input_names")
    if names is not None and not isinstance(names, list):
        raise ValueError(f"{file} has model_input_names {names!r}; a list of names is needed")
    return default if names is None else "token_type_ids" in names


def _has_several(config: Mapping[str, Any]) -> bool:
    types = config.get("type_vocab_size")
    return isinstance(types, int) and types > 1


def _truncation_side(settings: Mapping[str, Any], file: Path) -> str:
    side = settings.get("truncation_side") or ""
    if side not in ("", "left", "right"):
        raise ValueError(f"{file} has truncation_side {side!r}; left or right is needed")
    return side
