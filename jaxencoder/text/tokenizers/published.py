"""Loading of the tokenizer files that published encoders have: tokenizer.json, vocabularies, SentencePiece models."""

from pathlib import Path

import tokenizers
from tokenizers import models, normalizers, processors

from jaxencoder.files import read_json
from jaxencoder.text.tokenizers.encoding import ROLES, special_tokens
from jaxencoder.text.tokenizers.huggingface import HuggingFaceBackend, add_special_tokens, byte_level, wordpiece
from jaxencoder.text.tokenizers.sentencepiece_backend import SentencePieceBackend
from jaxencoder.text.tokenizers.sentencepiece_families import FILE_FAMILIES, load_sentencepiece
from jaxencoder.text.tokenizers.sentencepiece_text import MODEL_FILE, SentencePieceText

CONFIG = "tokenizer_config.json"
_MPNET = {"pad": "<pad>", "unk": "[UNK]", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
_ALIASES = {"xlmrobertaxl": "xlmroberta"}  # families by a second name, as `read_settings` writes it


def load_backend(path: Path) -> HuggingFaceBackend | SentencePieceBackend:
    """See `Tokenizer.load`."""
    if not path.exists():
        raise FileNotFoundError(f"no tokenizer at {path}; give a folder or file that exists")
    file = _find_file(path) if path.is_dir() else path
    family, options, names = read_settings(file)
    if file.suffix == ".model" or file.name == "spm":
        return load_sentencepiece(file, family, options, names)
    try:
        if file.suffix == ".txt" and file.name != "merges.txt":
            return _load_wordpiece(file, family, options, names)
        if file.name in ("vocab.json", "merges.txt"):
            return _load_byte_level(file.parent, options, names)
        tokenizer = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        if (model := file.with_name(MODEL_FILE)).is_file():
            return SentencePieceText(tokenizer, names, str(file), model.read_bytes())
        return HuggingFaceBackend(tokenizer, names, str(file))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 (byte {error.start}); check the file") from error
    except (ValueError, OSError):
        raise
    except Exception as error:  # the library raises a bare Exception for a file that it cannot read
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


def read_settings(file: Path) -> tuple[str, dict, dict[str, str]]:
    """Read the settings in the folder of a tokenizer's file.

    Returns:
        family: decides which steps apply. It is tokenizer_class, or else config.json's model_type, in lower case and
            without hyphens, "Tokenizer" and "Fast"; or else follows from the name of the file; or "".
        options: the keys of tokenizer_config.json, over those of special_tokens_map.json.
        names: role -> special token, for the roles that these two files name.
    """

    def content(name: str) -> dict:
        path = file.with_name(name)
        return read_json(path, dict) if path.is_file() else {}

    options = content("special_tokens_map.json") | content(CONFIG)
    tokens = {role: options.get(f"{role}_token") for role in ROLES}
    tokens = {role: token.get("content") if isinstance(token, dict) else token for role, token in tokens.items()}
    names = {role: token for role, token in tokens.items() if isinstance(token, str)}
    name = str(options.get("tokenizer_class") or "")
    if name in ("PreTrainedTokenizerFast", "TokenizersBackend"):
        return name, options, names  # saved by this package, or a tokenizer.json: no steps around the model
    name = name or str(content("config.json").get("model_type") or "")
    family = name.lower().replace("-", "").removesuffix("fast").removesuffix("tokenizer")
    return _ALIASES.get(family, family) or FILE_FAMILIES.get(file.name, ""), options, names


def _load_wordpiece(file: Path, family: str, options: dict, names: dict[str, str]) -> HuggingFaceBackend:
    """Load BERT's or MPNet's vocabulary, one token per line; without do_lower_case its capital letters decide."""
    if family == "roformer":
        raise ValueError(f"{file} is RoFormer's, which needs jieba to split words; load its tokenizer.json")
    with file.open(encoding="utf-8") as lines:
        vocab = {line.rstrip("\n"): number for number, line in enumerate(lines)}
    # MPNet's vocabulary also has BERT's [CLS] and [SEP], as ordinary tokens.
    mpnet = family == "mpnet" or (not family and all(vocab.get(t) == i for i, t in enumerate(("<s>", "<pad>", "</s>"))))
    if mpnet:
        names = _MPNET | names
    tokens = special_tokens(vocab, names, str(file))
    lowercase = options.get("do_lower_case")
    if lowercase is None:
        # An uncased vocabulary has capital letters only in special tokens such as [CLS] and [unused1].
        ordinary = (t for t in vocab if t not in tokens.values() and not (t.startswith("[") and t.endswith("]")))
        lowercase = all(token == token.lower() for token in ordinary)
    normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
        strip_accents=options.get("strip_accents"),
        lowercase=lowercase,
    )
    tokenizer = wordpiece(vocab, tokens["unk"], normalizer)
    if mpnet:
        _add_roberta_steps(tokenizer, tokens, vocab)
    return HuggingFaceBackend(tokenizer, names, str(file))


def _load_byte_level(folder: Path, options: dict, names: dict[str, str]) -> HuggingFaceBackend:
    """Load RoBERTa's byte-level BPE from vocab.json and merges.txt."""
    files = folder / "vocab.json", folder / "merges.txt"
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{folder} has no {file.name}; a byte-level BPE needs vocab.json and merges.txt")
    try:
        vocab, merges = models.BPE.read_file(*map(str, files))
    except Exception as error:  # the library's bare Exception
        raise ValueError(f"{folder} has a vocab.json or merges.txt that cannot be read: {error}") from error
    tokens = special_tokens(vocab, names, str(files[0]))
    prefix = bool(options.get("add_prefix_space", False))
    tokenizer = byte_level(models.BPE(vocab, merges), prefix)
    _add_roberta_steps(tokenizer, tokens, vocab, prefix)
    return HuggingFaceBackend(tokenizer, names, str(folder))


def _add_roberta_steps(
    tokenizer: tokenizers.Tokenizer, tokens: dict[str, str], vocab: dict[str, int], prefix: bool = False
) -> None:
    sep, cls = ((tokens[role], vocab[tokens[role]]) for role in ("sep", "cls"))
    tokenizer.post_processor = processors.RobertaProcessing(sep, cls, trim_offsets=True, add_prefix_space=prefix)
    add_special_tokens(tokenizer, tokens)
