"""Reading of tokenizer.json, and what the settings beside it change or contradict.

transformers 5 rebuilds the steps of its classes around the file's vocabulary. So a key of the settings replaces the
file's value, and a file with other steps than its class is refused. Steps are compared by what they make of a text.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from jaxencoder.text.tokenizers.encoding import USUAL_NAMES, special_tokens
from jaxencoder.text.tokenizers.huggingface import pair_template, read_steps, step_content
from jaxencoder.text.tokenizers.settings import TokenizerSettings

log = logging.getLogger(__name__)

_ADVICE = 'set tokenizer_class to "PreTrainedTokenizerFast" in tokenizer_config.json to take the file as it is'
# Keys of the settings -> those of BertNormalizer in the file.
_BERT_KEYS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
# Defaults of the classes, which win over the file in transformers.
_CLASS_DEFAULTS = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
_UNIGRAM_DEFAULTS = {
    "albert": {"do_lower_case": True, "keep_accents": False},
    "debertav2": {"do_lower_case": False, "split_by_punct": False},
}
# What each step of normalization and splitting changes: case, accents, widths, spaces, controls, scripts, punctuation,
# digits.
_PROBE = (
    "Don't  PASS 1234\tCafé cafe\u0301 ﬁ １２ İ ß\u00a0x\u200by\x07 東京に住む 한국어 naïve,“q”…€5.0 a_b <c> 👍\nend "
)


def parse_tokenizer_json(file: Path, settings: TokenizerSettings) -> tuple[tokenizers.Tokenizer, TokenizerSettings]:
    """The tokenizer of a file with the changes of the settings, and these with the file's side of truncation."""
    tokenizer = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
    side = (tokenizer.truncation or {}).get("direction", "")
    # Published files often truncate and pad to some length. Rows decide that here.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    _check_template(tokenizer, file)
    kind, family = type(tokenizer.model).__name__, settings.family
    if dropout := getattr(tokenizer.model, "dropout", None):
        raise ValueError(f"{file} has the model's dropout {dropout!r}, which makes ids random; set it to null")
    if settings.model not in ("", kind):
        problem = f"{settings.source} needs {settings.class_name}, a class of {settings.model} models"
        raise ValueError(f"{problem}, but {file.name} holds a {kind} model; {_ADVICE}")
    if family in ("japanese", "esm"):
        raise ValueError(f"{file} is not read for {settings.class_name}; remove it to load vocab.txt, or {_ADVICE}")
    if family in ("bert", "mpnet"):
        _set_bert_flags(tokenizer, settings, file)
    _set_prefix_space(tokenizer, settings, file)
    _check_flags(tokenizer, settings, file)
    names = _names(tokenizer, settings, file)
    for role in ("cls", "sep"):
        if family != "file" and settings.names.get(role) and role not in names:
            problem = f"{settings.source} has {role}_token {settings.names[role]!r}, which is not in the vocabulary"
            raise ValueError(f"{problem} of {file.name}; make them agree")
    _add_template(tokenizer, names, settings)
    _check_steps(tokenizer, names, settings, file)
    _set_words(tokenizer, settings)
    _check_added(tokenizer, settings, file)
    return tokenizer, replace(settings, truncation_side=settings.truncation_side or side)


def _check_template(tokenizer: tokenizers.Tokenizer, file: Path) -> None:
    """ValueError for a template with a token that has no ids, which the library would only miss when it encodes."""
    for step in _steps(step_content(tokenizer.post_processor)):
        pieces = [*step.get("single", ()), *step.get("pair", ())] if step["type"] == "TemplateProcessing" else []
        tokens = [piece["SpecialToken"]["id"] for piece in pieces if "SpecialToken" in piece]
        if unknown := [token for token in tokens if token not in step["special_tokens"]]:
            problem = f"{file} has {unknown[0]!r} in its post_processor"
            raise ValueError(f"{problem}, but its special_tokens do not give the ids; add them")


def _names(tokenizer: tokenizers.Tokenizer, settings: TokenizerSettings, file: Path) -> dict[str, str]:
    candidates = {*filter(None, settings.names.values()), *chain.from_iterable(USUAL_NAMES.values())}
    vocab = {token for token in candidates if tokenizer.token_to_id(token) is not None}
    return special_tokens(vocab, settings.names, str(file))


def _set_bert_flags(tokenizer: tokenizers.Tokenizer, settings: TokenizerSettings, file: Path) -> None:
    """Set the flags of the file's BertNormalizer, and the unknown token, that the settings name."""
    if unk := settings.names.get("unk"):
        tokenizer.model.unk_token = unk
    if not isinstance(tokenizer.normalizer, normalizers.BertNormalizer):
        return  # `_check_steps` compares what it does
    step = step_content(tokenizer.normalizer) or {}
    changed = {name: settings.options[key] for key, name in _BERT_KEYS.items() if key in settings.options}
    for key, name in _BERT_KEYS.items():
        if name not in changed and step.get(name) != _CLASS_DEFAULTS[key] and settings.class_name:
            log.warning(
                "%s has %s %s, which counts; transformers would take its default of %s, since the settings have no %s",
                *(file, name, json.dumps(step.get(name)), json.dumps(_CLASS_DEFAULTS[key]), key),
            )
    flags: dict[str, Any] = {"clean_text": True} | {name: step.get(name) for name in _BERT_KEYS.values()} | changed
    tokenizer.normalizer = normalizers.BertNormalizer(**flags)


def _set_prefix_space(tokenizer: tokenizers.Tokenizer, settings: TokenizerSettings, file: Path) -> None:
    """Set add_prefix_space of the file's byte-level steps."""
    prefix = settings.options.get("add_prefix_space")
    splitter, processor = step_content(tokenizer.pre_tokenizer), step_content(tokenizer.post_processor)
    steps = [step for step in _steps(splitter) if step["type"] == "ByteLevel"]
    if prefix is None:
        if settings.family == "roberta" and any(step.get("add_prefix_space") for step in steps):
            log.warning("%s has add_prefix_space true, which counts; transformers would take its default, false", file)
    elif steps:
        for step in (*steps, *(step for step in _steps(processor) if step["type"] == "RobertaProcessing")):
            step["add_prefix_space"] = prefix
        changed = read_steps(pre_tokenizer=splitter, post_processor=processor)
        tokenizer.pre_tokenizer = changed.pre_tokenizer
        if processor is not None:
            tokenizer.post_processor = changed.post_processor


def _steps(step: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A step of the file and those inside it."""
    if step is None:
        return
    yield step
    for key in ("normalizers", "pretokenizers", "processors", "decoders"):
        for part in step.get(key, ()):
            yield from _steps(part)


def _check_flags(tokenizer: tokenizers.Tokenizer, settings: TokenizerSettings, file: Path) -> None:
    """ValueError for a key of the settings that contradicts the steps of a unigram model, which aren't rebuilt here."""
    if settings.model != "Unigram" or settings.family == "file":
        return
    splitters = list(_steps(step_content(tokenizer.pre_tokenizer)))
    kinds = {step["type"] for step in (*splitters, *_steps(step_content(tokenizer.normalizer)))}
    schemes = [step.get("prepend_scheme", "always") for step in splitters]
    values = {
        "do_lower_case": "Lowercase" in kinds,
        "keep_accents": "StripAccents" not in kinds,
        "split_by_punct": "Punctuation" in kinds,
        "add_prefix_space": "never" not in schemes,
    }
    for key, value in values.items():
        default = _UNIGRAM_DEFAULTS.get(settings.family, {}).get(key, value)
        if key not in settings.options and value != default:
            log.warning(
                "%s has the steps of %s %s, which count; transformers would take its default of %s",
                *(file, key, json.dumps(value), json.dumps(default)),
            )
        if settings.options.get(key, value) != value:
            problem = f"{settings.source} has {key} {json.dumps(settings.options[key])} in tokenizer_config.json"
            raise ValueError(
                f"{problem}, but the steps of {file.name} are those of {json.dumps(value)}; make them agree"
            )


def _add_template(tokenizer: tokenizers.Tokenizer, names: dict[str, str], settings: TokenizerSettings) -> None:
    """Add the class's special tokens to a file without a post-processor; with a generic class, none are added."""
    if tokenizer.post_processor is not None or not settings.class_name:
        return  # the backend adds BERT's to a file that nothing describes
    if settings.family == "file" or not {"cls", "sep"} <= names.keys():
        tokenizer.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    else:
        tokenizer.post_processor = _template(tokenizer, names, settings.family)


def _template(tokenizer: tokenizers.Tokenizer, names: dict[str, str], family: str) -> processors.PostProcessor:
    roberta = family in ("roberta", "mpnet", "xlmroberta", "camembert")
    ids = {role: tokenizer.token_to_id(token) or 0 for role, token in names.items()}
    return pair_template(names, ids, roberta)


def _check_steps(
    tokenizer: tokenizers.Tokenizer, names: dict[str, str], settings: TokenizerSettings, file: Path
) -> None:
    """ValueError for a file whose steps are not those of its class."""
    family = settings.family
    if family in ("bert", "mpnet"):
        flags = {name: settings.options.get(key, _CLASS_DEFAULTS[key]) for key, name in _BERT_KEYS.items()}
        is_standard = isinstance(tokenizer.normalizer, normalizers.BertNormalizer)
        normalizer = tokenizer.normalizer if is_standard else normalizers.BertNormalizer(**flags)
        splitter = pre_tokenizers.BertPreTokenizer()
    elif family in ("roberta", "deberta"):
        prefix = getattr(tokenizer.pre_tokenizer, "add_prefix_space", False)
        normalizer, splitter = None, pre_tokenizers.ByteLevel(add_prefix_space=bool(prefix))
    elif family in ("xlmroberta", "camembert"):
        normalizer, splitter = _compiled(tokenizer.normalizer), pre_tokenizers.WhitespaceSplit()
    elif family == "file" and settings.model == "BPE":
        normalizer, splitter = _decoder_steps(tokenizer, settings)
    else:
        return
    differing = []
    normalized, by_file = _normalized(normalizer), _normalized(tokenizer.normalizer)
    if _characters(by_file) != _characters(normalized):
        differing.append("normalizer")
    elif _words(tokenizer.pre_tokenizer, by_file) != _words(splitter, normalized):
        differing.append("pre_tokenizer")
    is_templated = family not in ("deberta", "file") and {"cls", "sep"} <= names.keys()
    if is_templated and not _has_template(tokenizer, names, family):
        differing.append("post_processor")
    if settings.model == "WordPiece" and tokenizer.model.continuing_subword_prefix != "##":
        differing.append("continuing_subword_prefix")
    if differing:
        problem = f"{file} has another {' and '.join(differing)} than {settings.class_name}, which replaces it"
        raise ValueError(f"{problem}; {_ADVICE}")


def _decoder_steps(
    tokenizer: tokenizers.Tokenizer, settings: TokenizerSettings
) -> tuple[normalizers.Normalizer | None, pre_tokenizers.PreTokenizer | None]:
    """Normalization and splitting of a decoder's class."""
    name = settings.class_name.removesuffix("Fast").removesuffix("Tokenizer")
    if name == "Llama":  # of any kind without bytes: `_set_words` replaces them
        return tokenizer.normalizer, pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    if name == "Gemma":
        return normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous")
    if name == "Qwen2":
        return normalizers.NFC(), tokenizer.pre_tokenizer
    prefix = any(step.get("add_prefix_space") for step in _steps(step_content(tokenizer.pre_tokenizer)))
    bytes_of_words = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    if name == "Cohere":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return normalizers.NFC(), pre_tokenizers.Sequence([digits, bytes_of_words])
    return None if name == "GPT2" else normalizers.NFC(), bytes_of_words


def _set_words(tokenizer: tokenizers.Tokenizer, settings: TokenizerSettings) -> None:
    """Split at spaces as SentencePiece and transformers do: older files make tokens of spaces at ends of texts too."""
    if settings.class_name.startswith("Llama"):
        options = {"add_prefix_space": True, "legacy": False, **settings.options}
        scheme = ("always" if options["legacy"] else "first") if options["add_prefix_space"] else "never"
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    if settings.family in ("xlmroberta", "camembert"):
        tokenizer.normalizer = _compiled(tokenizer.normalizer)
    if settings.family in ("xlmroberta", "camembert", "albert") or settings.class_name.startswith("T5"):
        scheme = "always" if settings.options.get("add_prefix_space", True) else "never"
        steps = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme=scheme)]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)


def _has_template(tokenizer: tokenizers.Tokenizer, names: dict[str, str], family: str) -> bool:
    standard = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    standard.post_processor = _template(tokenizer, names, family)
    ours, theirs = (x.encode("", "") for x in (standard, tokenizer))
    # Files of these families differ in their type ids, which their models do not read.
    typeless = family in ("mpnet", "xlmroberta", "camembert")
    return ours.ids == theirs.ids and (ours.type_ids == theirs.type_ids or typeless)


def _compiled(step: normalizers.Normalizer | None) -> normalizers.Normalizer | None:
    """SentencePiece's rules among the steps of a normalizer."""
    if isinstance(step, normalizers.Sequence):
        return next((x for x in (step[i] for i in range(len(step))) if isinstance(x, normalizers.Precompiled)), None)
    return step if isinstance(step, normalizers.Precompiled) else None


def _characters(text: str) -> str:
    """The text without spaces, which unigram files write in several equal ways."""
    return "".join(text.replace("▁", " ").split())


def _normalized(step: normalizers.Normalizer | None) -> str:
    return _PROBE if step is None else step.normalize_str(_PROBE)


def _words(step: pre_tokenizers.PreTokenizer | None, text: str) -> list[str]:
    parts = [text] if step is None else [part for part, _ in step.pre_tokenize_str(text)]
    return [word for part in parts for word in part.replace("▁", " ").split()]


def _check_added(tokenizer: tokenizers.Tokenizer, settings: TokenizerSettings, file: Path) -> None:
    """ValueError for added tokens of the file that added_tokens_decoder leaves out: classes with steps drop them."""
    if settings.family == "file" or not settings.class_name or not settings.has_decoder:
        return
    listed = {token.content for token in settings.added_tokens.values()}
    listed |= {item.token.content for item in settings.special_tokens} | set(_names(tokenizer, settings, file).values())
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    if missing := sorted(added - listed):
        problem = f"{file} adds {missing[0]!r}, which added_tokens_decoder in tokenizer_config.json leaves out"
        raise ValueError(f'{problem}; make them agree, or set tokenizer_class to "PreTrainedTokenizerFast"')
