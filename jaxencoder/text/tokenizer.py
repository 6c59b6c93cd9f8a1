"""One Tokenizer over SentencePiece models and Hugging Face tokenizers: load, save, encode, decode, word starts.

Files it reads: tokenizer.json, vocab.txt (BERT), vocab.json + merges.txt (RoBERTa, GPT-2's byte-level BPE) and
SentencePiece's *.model (with the steps that XLM-R, CamemBERT, ALBERT and DeBERTa put around it), or a folder that holds
one of these, in that order.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers

from jaxencoder.text.config import TokenizerConfig
from jaxencoder.text.tokenizer_backends import (
    ROLES,
    Encoding,
    HuggingFaceBackend,
    SentencePieceBackend,
)
from jaxencoder.text.tokenizer_files import byte_level, family, sentencepiece_unigram, wordpiece
from jaxencoder.text.tokenizer_training import train_backend

__all__ = ["Encoding", "Tokenizer", "train_tokenizer"]

CONFIG = "tokenizer_config.json"


class Tokenizer:
    """Text to ids and back, the same for every library and family.

    A special token written out in a text ("Paris is the [MASK] of France.") becomes its id. Text that is no valid
    Unicode (a lone surrogate) is refused with a ValueError.

    Attributes:
        name: wordpiece, bpe, unigram, sentencepiece-unigram or sentencepiece-bpe.
        vocab_size: the largest id plus one.
        pad_id, unk_id, cls_id, sep_id, mask_id: ids of the five special tokens, whatever the family calls them.
        special_ids: these and every other special id, ascending.
    """

    def __init__(self, backend: HuggingFaceBackend | SentencePieceBackend):
        self._backend = backend
        self.name: str = backend.name
        self.vocab_size: int = len(backend.tokens)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (backend.roles[role] for role in ROLES)
        self.special_ids: tuple[int, ...] = tuple(sorted(backend.special_ids))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Tokenizer":
        """A tokenizer from a file or a folder.

        Raises: FileNotFoundError where there is none; ValueError for a file that cannot be read as one, or that
        lacks one of the five special tokens.
        """
        return cls(_load(Path(path)))

    def lowercased(self) -> "Tokenizer":
        """This tokenizer on texts in lower case; ValueError for a SentencePiece model, which has no such step."""
        if isinstance(self._backend, SentencePieceBackend):
            raise ValueError("a SentencePiece model has no step that lowercases; give the tokenizer as tokenizer.json")
        return Tokenizer(self._backend.lowercased())

    def save(self, folder: str | os.PathLike) -> None:
        """Writes what `load(folder)` reads, with the same fingerprint; each file appears whole or not at all.

        Raises: ValueError where the folder already holds the tokenizer of the other library.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for other in {HuggingFaceBackend.file, SentencePieceBackend.file} - {self._backend.file}:
            if (folder / other).exists():
                raise ValueError(f"{folder} already holds another tokenizer ({other}); save to an empty folder")
        named = {f"{role}_token": self.token(index) for role, index in self._backend.roles.items()}
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
        _write(folder / CONFIG, json.dumps(settings, indent=2, ensure_ascii=False).encode())
        _write(folder / self._backend.file, self._backend.content())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal of all that decides which ids a text gets."""
        return hashlib.sha256(self.name.encode() + b"\0" + self._backend.state()).hexdigest()

    @property
    def mask_token(self) -> str:
        """How the mask is written in a text: [MASK] or <mask>."""
        return self.token(self.mask_id)

    def encode_batch(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        special: bool = True,
        offsets: bool = False,
        max_length: int | None = None,
    ) -> list[Encoding]:
        """Encodes texts, or pairs of texts, with the special tokens and type ids of the family around them.

        BERT: [CLS] a [SEP] b [SEP] with type ids 0 0 0 1 1; RoBERTa: <s> a </s> </s> b </s>, all 0.

        Args:
            texts, pairs: the first and (optionally) second text of each example.
            special: add the special tokens.
            offsets: also give the characters of the original text that each token stands for. The space before a
                word belongs to it in metaspace models and in a byte-level one that does not trim it.
            max_length: longer results lose tokens at the end of the longer text; special tokens stay.

        Raises: ValueError for anything but valid strings, or a max_length without room for the special tokens.
        """
        texts = as_list(texts)
        if pairs is not None:
            pairs = as_list(pairs)
            if len(pairs) != len(texts):
                raise ValueError(f"{len(texts)} texts but {len(pairs)} pairs; give one second text for each first")
        return self._backend.encode(texts, pairs, special, offsets, max_length)

    def encode_ids(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The fast way without special tokens: ["a b", "", "c"] -> ids int32 [3], lengths int64 [2, 0, 1].

        The ids are those of `encode_batch(texts, special=False)`, one text after the other.
        """
        return self._backend.encode_ids(as_list(texts))

    def decode(self, ids: Sequence[int] | np.ndarray, skip_special: bool = True) -> str:
        """Ids to text. Byte-level BPE gives the text back exactly, the others up to their normalisation."""
        return self._backend.decode([self._checked(index) for index in ids], skip_special)

    def token(self, index: int) -> str:
        """The token of an id, as the vocabulary writes it; empty for an id that no token uses."""
        return self._backend.tokens[self._checked(index)]

    def tokens(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """The tokens of several ids."""
        return [self.token(index) for index in ids]

    def word_starts(self) -> np.ndarray:
        """Table bool [V]: True where a token begins a word, and for special tokens.

        WordPiece: every token without ##. Byte-level: every token that begins with a space (or line break). Metaspace
        (SentencePiece, unigram): every token that begins with it. A token right after a special token begins a word
        whatever the table says: byte-level BPE writes no space at the start of a text. In scripts that put no spaces
        between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) each token that does not begin with a
        vowel sign or tone mark counts as a word: a sentence would be one otherwise.
        """
        special = set(self.special_ids)
        starts = (not token or i in special or self._backend.word_start(token) for i, token in self._enumerate())
        return np.fromiter(starts, np.bool_, self.vocab_size)

    def _enumerate(self) -> Iterable[tuple[int, str]]:
        return enumerate(self._backend.tokens)

    def _checked(self, index: int) -> int:
        if not 0 <= index < self.vocab_size:
            raise ValueError(f"id {index} is outside the vocabulary of {self.vocab_size} tokens")
        return int(index)


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Trains a tokenizer; the same texts in order give the same one in any process and on any number of cores.

    Args:
        texts: a stream; what is kept of it is counted words (bpe), a temporary file (wordpiece), or the text itself
            in SentencePiece's memory (the other kinds), at most `config.training_characters` of it.
        config: its path is not looked at.

    Raises: ValueError for no text, text that is not valid Unicode, or a vocabulary too small for its characters.
    """
    return Tokenizer(train_backend(texts, config))


def as_list(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str | bytes):
        raise ValueError(f"texts is one {type(texts).__name__}, not a list of strings; put it in a list")
    return list(texts)


def _write(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _load(path: Path) -> HuggingFaceBackend | SentencePieceBackend:
    if not path.exists():
        raise FileNotFoundError(f"no tokenizer at {path}; give a folder or file that exists")
    folder = path if path.is_dir() else path.parent
    file = _tokenizer_file(path) if path.is_dir() else path
    config, named = _configuration(folder)
    kind = family(file, config)
    if file.suffix == ".model" or file.name == "spm":
        content = file.read_bytes()
        tokenizer = sentencepiece_unigram(content, kind, config, named, str(file))
        if tokenizer is None:
            return SentencePieceBackend(content, named, str(file))
        return HuggingFaceBackend(tokenizer, named, str(file))
    try:
        if file.suffix == ".txt" and file.name != "merges.txt":
            tokenizer = wordpiece(file, kind, config, named)
        elif file.name in ("vocab.json", "merges.txt"):
            tokenizer = byte_level(folder, config, named)
        else:
            tokenizer = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 (byte {error.start}); check the file") from error
    except (ValueError, OSError):
        raise
    except Exception as error:  # the library raises bare Exception for a file it cannot read
        raise ValueError(f"{file} is not a tokenizer that can be read: {error}") from error
    return HuggingFaceBackend(tokenizer, named, str(file))


def _tokenizer_file(folder: Path) -> Path:
    for name in ("tokenizer.json", "vocab.txt", "merges.txt", "spm.model"):
        if (folder / name).is_file():
            return folder / name
    found = sorted(folder.glob("*.model"))
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{folder} holds {len(found)} SentencePiece models; name one of them")
    raise FileNotFoundError(f"{folder} holds no tokenizer.json, vocab.txt, vocab.json with merges.txt, or *.model")


def _configuration(folder: Path) -> tuple[dict, dict[str, str]]:
    """tokenizer_config.json, and the names of special tokens that it or special_tokens_map.json gives."""
    config: dict = {}
    for name in ("special_tokens_map.json", CONFIG):
        file = folder / name
        if file.is_file():
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{file} is not JSON in UTF-8: {error}") from error
            if not isinstance(content, dict):
                raise ValueError(f"{file} holds no JSON object; check the file")
            config |= content
    named = {}
    for role in ROLES:
        token = config.get(f"{role}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            named[role] = token
    return config, named
