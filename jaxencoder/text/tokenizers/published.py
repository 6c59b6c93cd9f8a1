"""Loading of the tokenizer files that published encoders have: tokenizer.json, vocabularies, SentencePiece models."""

import logging
from dataclasses import replace
from pathlib import Path

import tokenizers
from tokenizers import models, normalizers, processors

from jaxencoder.text.tokenizers.added_tokens import add_tokens, remove_segments
from jaxencoder.text.tokenizers.classes import CLASS_TOKENS
from jaxencoder.text.tokenizers.encoding import special_tokens
from jaxencoder.text.tokenizers.huggingface import (
    HuggingFaceBackend,
    add_special_tokens,
    byte_level,
    end_of_word,
    is_library_error,
    pair_template,
    wordpiece,
)
from jaxencoder.text.tokenizers.japanese import japanese
from jaxencoder.text.tokenizers.protein import protein
from jaxencoder.text.tokenizers.sentencepiece_backend import SentencePieceBackend
from jaxencoder.text.tokenizers.sentencepiece_families import FILE_FAMILIES, load_sentencepiece
from jaxencoder.text.tokenizers.sentencepiece_text import MODEL_FILE, SentencePieceText
from jaxencoder.text.tokenizers.settings import TokenizerSettings, read_settings
from jaxencoder.text.tokenizers.tokenizer_json import parse_tokenizer_json

log = logging.getLogger(__name__)

# Families by the kind of their files; "" is that of no class.
_LINES_FAMILIES = ("", "bert", "mpnet", "japanese", "esm")
_BPE_FAMILIES = ("", "roberta", "deberta", "herbert")
_SENTENCEPIECE_FAMILIES = ("", "xlmroberta", "camembert", "albert", "debertav2")


def load_backend(path: Path, table_size: int | None) -> tuple[HuggingFaceBackend | SentencePieceBackend, int]:
    """The backend and the limit on the tokens of a text, 0 for none; see `Tokenizer.load`."""
    if not path.exists():
        raise FileNotFoundError(f"no tokenizer at {path}; give a folder or file that exists")
    file = _find_file(path) if path.is_dir() else path
    kind = _kind(file)
    settings = read_settings(file.parent, kind == "tokenizer.json")
    try:
        if kind == "sentencepiece":
            return _load_sentencepiece(file, settings, table_size), settings.max_length
        load = {"tokenizer.json": parse_tokenizer_json, "vocab.txt": _load_vocabulary, "bpe": _load_bpe}[kind]
        tokenizer, settings = load(file, settings)
        model_file = file.with_name(MODEL_FILE)
        model = model_file.read_bytes() if kind == "tokenizer.json" and model_file.is_file() else None
        return _with_settings(tokenizer, settings, file, table_size, model), settings.max_length
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 (byte {error.start}); check the file") from error
    except (ValueError, OSError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_library_error(error):
            raise
        raise ValueError(f"{file} is not a tokenizer that can be read: {error}") from error


def _find_file(folder: Path) -> Path:
    for name in ("tokenizer.json", "vocab.txt", "merges.txt", "spm.model"):
        if (folder / name).is_file():
            return folder / name
    files = sorted(folder.glob("*.model"))
    if len(files) == 1:
        return files[0]
    if files:
        raise ValueError(f"{folder} holds {len(files)} SentencePiece models; name one of them")
    raise FileNotFoundError(f"{folder} holds no tokenizer.json, vocab.txt, vocab.json with merges.txt, or *.model")


def _kind(file: Path) -> str:
    if file.suffix == ".model" or file.name == "spm":
        return "sentencepiece"
    if file.name in ("vocab.json", "merges.txt"):
        return "bpe"
    return "vocab.txt" if file.suffix == ".txt" else "tokenizer.json"


def _with_settings(
    tokenizer: tokenizers.Tokenizer,
    settings: TokenizerSettings,
    file: Path,
    table_size: int | None,
    model: bytes | None,
) -> HuggingFaceBackend:
    """The backend with the added tokens, segments and side of the settings; `model` is of SentencePiece."""
    add_tokens(tokenizer, settings, table_size, _kind(file) == "tokenizer.json")
    if not settings.has_segments:
        if settings.loses_segments and any(tokenizer.encode("", "").type_ids):
            advice = 'to use them, add "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]'
            log.warning(
                "%s: as in transformers 5, pairs have no segments, since no setting names them; %s", file, advice
            )
        remove_segments(tokenizer)
    side = settings.truncation_side or "right"
    if model is None:
        return HuggingFaceBackend(tokenizer, settings.names, str(file), side)
    return SentencePieceText(tokenizer, settings.names, str(file), model, side)


def _load_sentencepiece(
    file: Path, settings: TokenizerSettings, table_size: int | None
) -> HuggingFaceBackend | SentencePieceBackend:
    _check_family(file, settings, _SENTENCEPIECE_FAMILIES, "a SentencePiece model")
    family = settings.family or settings.class_name or settings.model_type or FILE_FAMILIES.get(file.name, "")
    names = {role: token for role, token in settings.names.items() if token is not None}
    backend = load_sentencepiece(file, family, dict(settings.options), names)
    if isinstance(backend, SentencePieceBackend):
        backend.truncation_side = settings.truncation_side or "right"
        tokens = [*settings.added_tokens.values(), *(item.token for item in settings.special_tokens)]
        special = {backend.tokens[index] for index in backend.special_ids}
        if unread := sorted({token.content for token in tokens} - special):
            problem = f"{settings.source} adds {unread[0]!r} to a SentencePiece model, which is not supported"
            raise ValueError(f"{problem} without a class that has steps for it; load its tokenizer.json instead")
        return backend
    tokenizer, names, model = backend
    settings = replace(settings, names=names | dict(settings.names))
    return _with_settings(tokenizer, settings, file, table_size, model)


def _check_family(file: Path, settings: TokenizerSettings, families: tuple[str, ...], description: str) -> None:
    """ValueError if the class has other files than this one."""
    if settings.family not in families:
        problem = f"{settings.source} needs {settings.class_name}, which does not read {description} ({file.name})"
        advice = "name the right tokenizer_class in tokenizer_config.json, or save the tokenizer with transformers once"
        raise ValueError(f"{problem}; {advice}, which writes tokenizer.json")


def _load_vocabulary(file: Path, settings: TokenizerSettings) -> tuple[tokenizers.Tokenizer, TokenizerSettings]:
    """Load the vocabulary of BERT, MPNet, a Japanese BERT or ESM, one token per line."""
    _check_family(file, settings, _LINES_FAMILIES, "a vocabulary of lines")
    with file.open(encoding="utf-8") as lines:
        vocab = {line.rstrip("\n"): number for number, line in enumerate(lines)}
    # MPNet's vocabulary also has BERT's [CLS] and [SEP], as ordinary tokens.
    looks_like_mpnet = all(vocab.get(token) == i for i, token in enumerate(("<s>", "<pad>", "</s>")))
    mpnet = settings.family == "mpnet" or (not settings.family and looks_like_mpnet)
    names = (CLASS_TOKENS["mpnet"] if mpnet else {}) | dict(settings.names)
    tokens = special_tokens(vocab, names, str(file), required=("unk", "cls", "sep"))
    if settings.family == "japanese":
        tokenizer = japanese(vocab, tokens["unk"], settings)
    elif settings.family == "esm":
        tokenizer = protein(vocab, tokens["unk"])
    else:
        tokenizer = wordpiece(vocab, tokens["unk"], _bert_normalizer(file, vocab, tokens, settings))
    if mpnet:
        _add_roberta_steps(tokenizer, tokens, vocab)
    else:
        tokenizer.post_processor = _bert_template(tokens, vocab)
    return tokenizer, replace(settings, names=names)


def _bert_normalizer(
    file: Path, vocab: dict[str, int], tokens: dict[str, str], settings: TokenizerSettings
) -> normalizers.Normalizer:
    """BERT's normalization; without do_lower_case the capital letters of the vocabulary decide."""
    options = settings.options
    lowercase = options.get("do_lower_case")
    if lowercase is None:
        # An uncased vocabulary has capital letters only in special tokens such as [CLS] and [unused1].
        ordinary = (t for t in vocab if t not in tokens.values() and not (t.startswith("[") and t.endswith("]")))
        lowercase = all(token == token.lower() for token in ordinary)
        if not lowercase and settings.class_name:
            log.warning(
                "%s has capital letters and no do_lower_case, so case is kept; transformers would lowercase texts", file
            )
    return normalizers.BertNormalizer(
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
        strip_accents=options.get("strip_accents"),
        lowercase=lowercase,
    )


def _load_bpe(file: Path, settings: TokenizerSettings) -> tuple[tokenizers.Tokenizer, TokenizerSettings]:
    """Load a BPE from vocab.json and merges.txt: RoBERTa's or DeBERTa's on bytes, or HerBERT's with </w>."""
    folder = file.parent
    _check_family(file, settings, _BPE_FAMILIES, "a BPE of vocab.json and merges.txt")
    files = folder / "vocab.json", folder / "merges.txt"
    for part in files:
        if not part.is_file():
            raise FileNotFoundError(f"{folder} has no {part.name}; a byte-level BPE needs vocab.json and merges.txt")
    try:
        vocab, merges = models.BPE.read_file(*map(str, files))
    except Exception as error:  # the library's bare Exception
        raise ValueError(f"{folder} has a vocab.json or merges.txt that cannot be read: {error}") from error
    tokens = special_tokens(vocab, settings.names, str(files[0]), required=("cls", "sep"))
    if settings.family == "herbert":
        tokenizer = end_of_word(vocab, merges, tokens.get("unk"))
        tokenizer.post_processor = _bert_template(tokens, vocab)
        return tokenizer, settings
    if sum(token.endswith("</w>") for token in vocab) > len(vocab) // 4:
        problem = f"{files[0]} marks the ends of words with </w>, as HerbertTokenizer does"
        raise ValueError(f"{problem}; name the tokenizer_class in tokenizer_config.json")
    prefix = settings.options.get("add_prefix_space", False)
    tokenizer = byte_level(models.BPE(vocab, merges), prefix)
    if settings.family == "deberta" or (not settings.family and tokens["cls"] == "[CLS]"):
        # As DeBERTa's authors have it, with one [SEP] between the texts; transformers 5 writes two.
        tokenizer.post_processor = _bert_template(tokens, vocab)
        add_special_tokens(tokenizer, tokens)
    else:
        _add_roberta_steps(tokenizer, tokens, vocab, prefix, settings.options.get("trim_offsets", True))
    return tokenizer, settings


def _bert_template(tokens: dict[str, str], vocab: dict[str, int]) -> processors.TemplateProcessing:
    return pair_template(tokens, {role: vocab[token] for role, token in tokens.items()})


def _add_roberta_steps(
    tokenizer: tokenizers.Tokenizer,
    tokens: dict[str, str],
    vocab: dict[str, int],
    prefix: bool = False,
    trim_offsets: bool = True,
) -> None:
    sep, cls = ((tokens[role], vocab[tokens[role]]) for role in ("sep", "cls"))
    tokenizer.post_processor = processors.RobertaProcessing(sep, cls, trim_offsets, prefix)
    add_special_tokens(tokenizer, tokens)
