"""The tokenizer, one class over SentencePiece models and Hugging Face tokenizers."""

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxencoder.files import write_atomic
from jaxencoder.text.tokenizers.encoding import ROLES, Encoding, as_list
from jaxencoder.text.tokenizers.huggingface import HuggingFaceBackend
from jaxencoder.text.tokenizers.published import load_backend
from jaxencoder.text.tokenizers.sentencepiece_backend import SentencePieceBackend
from jaxencoder.text.tokenizers.sentencepiece_families import with_tokenizer_json
from jaxencoder.text.tokenizers.sentencepiece_text import MODEL_FILE, SentencePieceText
from jaxencoder.text.tokenizers.settings import CONFIG

__all__ = ["Encoding", "Tokenizer"]


class Tokenizer:
    """Converts text to ids and back, in the same way for every library and family.

    A special token written in a text ("Paris is the [MASK] of France.") becomes its id. A lone surrogate raises
    ValueError.
    """

    def __init__(self, backend: HuggingFaceBackend | SentencePieceBackend):
        self._backend = backend
        self.name: str = backend.name  # wordpiece, bpe, unigram, sentencepiece-unigram or sentencepiece-bpe
        self.vocab_size: int = len(backend.tokens)  # the largest id plus one
        # Role (pad, unk, cls, sep, mask) -> the special token's id, for the roles that the vocabulary has.
        self.role_ids: dict[str, int] = dict(backend.roles)
        self.special_tokens: dict[str, str] = {role: backend.tokens[index] for role, index in backend.roles.items()}
        self.max_length = 0  # limit on the tokens of a text that the tokenizer's files give; 0 for none
        self.special_ids: tuple[int, ...] = tuple(sorted(backend.special_ids))  # ascending

    @property
    def pad_id(self) -> int:
        """The id of padding; 0 for a tokenizer without one, since padding is masked."""
        return self.role_ids.get("pad", 0)

    @property
    def unk_id(self) -> int:
        """The id of unknown tokens; ValueError if there is none, as for the other roles below."""
        return self._role_id("unk")

    @property
    def cls_id(self) -> int:
        return self._role_id("cls")

    @property
    def sep_id(self) -> int:
        return self._role_id("sep")

    @property
    def mask_id(self) -> int:
        return self._role_id("mask")

    def _role_id(self, role: str) -> int:
        if role not in self.role_ids:
            problem = f"the tokenizer has no {role} token, which is needed here"
            raise ValueError(f"{problem}; name it as {role}_token in tokenizer_config.json")
        return self.role_ids[role]

    @classmethod
    def load(cls, path: str | os.PathLike, table_size: int | None = None) -> "Tokenizer":
        """Load a tokenizer from a file, or from the first of these files in a folder.

        tokenizer.json; vocab.txt (BERT, MPNet, Japanese BERT); vocab.json with merges.txt (RoBERTa's and DeBERTa's
        byte-level BPE, HerBERT's BPE); SentencePiece's spm.model or *.model, with the steps that XLM-R, CamemBERT,
        ALBERT and DeBERTa put around it. The settings beside the file count; see `settings.read_settings`.

        Args:
            table_size: rows of the model's token table; special tokens without room in it are left out.

        Raises:
            FileNotFoundError: no tokenizer there.
            ValueError: a file that is not a tokenizer, or a class or setting that is not supported.
        """
        backend, max_length = load_backend(Path(path), table_size)
        tokenizer = cls(backend)
        tokenizer.max_length = max_length
        return tokenizer

    def lowercased(self) -> "Tokenizer":
        """This tokenizer with lowercasing of texts; ValueError for a SentencePiece model, which has no such step."""
        return Tokenizer(self._backend.lowercased())

    def truncating(self, side: Literal["left", "right"]) -> "Tokenizer":
        """This tokenizer, which drops the beginning (left) or the end (right) of texts that are too long."""
        backend = copy.copy(self._backend)
        backend.truncation_side = side
        tokenizer = Tokenizer(backend)
        tokenizer.max_length = self.max_length
        return tokenizer

    def with_special_tokens(self, tokens: Sequence[str]) -> "Tokenizer":
        """This tokenizer with some tokens of its vocabulary as special ones, so that texts can have them.

        ValueError for a SentencePiece model, or a token that the vocabulary lacks.
        """
        for token in tokens:
            if self.token_id(token) is None:
                raise ValueError(f"the tokenizer has no token {token!r}; add it to the tokenizer")
        if not isinstance(self._backend, HuggingFaceBackend):
            raise ValueError(f"a SentencePiece model has no special token {tokens[0]!r}; add a tokenizer.json")
        tokenizer = Tokenizer(self._backend.with_special_tokens(tokens))
        tokenizer.max_length = self.max_length
        return tokenizer

    def with_markers(self, prompts: Iterable[str]) -> "Tokenizer":
        """This tokenizer, which reads the token at the beginning of a prompt as one, such as [unused0], if it has it.

        A prompt without such a token is text.
        """
        added = []
        for prompt in prompts:
            for token in (prompt, *prompt.split(maxsplit=1)[:1]):
                if (token_id := self.token_id(token)) is None:
                    continue
                (encoding,) = self.encode_batch([token], special=False)
                added += [token] if encoding.ids.tolist() != [token_id] else []
                break
        return self.with_special_tokens(added) if added else self

    def token_id(self, token: str) -> int | None:
        """The id of a token as written in the vocabulary; None for one that it lacks."""
        return self._ids.get(token)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: i for i, token in reversed([*enumerate(self._backend.tokens)]) if token}

    def with_tokenizer_json(self) -> "Tokenizer":
        """A tokenizer of equal ids that other software can load; ValueError if no tokenizer.json can hold it."""
        backend = self._backend
        return Tokenizer(with_tokenizer_json(backend)) if isinstance(backend, SentencePieceBackend) else self

    @property
    def is_approximate(self) -> bool:
        """Whether other software, which reads tokenizer.json alone, splits some rare characters otherwise."""
        return isinstance(self._backend, SentencePieceText)

    def save(self, folder: str | os.PathLike, settings: Mapping[str, Any] | None = None) -> None:
        """Write the files from which `load(folder)` restores the same fingerprint, each atomically.

        `settings` are more keys of tokenizer_config.json, for other software: model_input_names, model_max_length.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files = self._backend.files()
        for other in {HuggingFaceBackend.file, SentencePieceBackend.file, MODEL_FILE} - files.keys():
            if (folder / other).exists():
                raise ValueError(f"{folder} already holds another tokenizer ({other}); save to an empty folder")
        # null keeps a usual name in the vocabulary from being taken for a role that the tokenizer does not have.
        names = {f"{role}_token": self.special_tokens.get(role) for role in ROLES}
        (pair,) = self.encode_batch([""], [""])
        inputs = ["input_ids", *(["token_type_ids"] if pair.type_ids.any() else []), "attention_mask"]
        content = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs, **names}
        content |= settings or {}
        if self._backend.truncation_side != "right":
            content["truncation_side"] = self._backend.truncation_side
        # Readable for all, whatever the umask, since users may share a cache.
        write_atomic(folder / CONFIG, json.dumps(content, indent=2, ensure_ascii=False), 0o644)
        for name, data in reversed(files.items()):  # the one that `load` looks for comes last
            write_atomic(folder / name, data, 0o644)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of everything that decides the ids of a text."""
        side = b"" if self._backend.truncation_side == "right" else b"\0left"
        return hashlib.sha256(self.name.encode() + b"\0" + self._backend.state() + side).hexdigest()

    @property
    def mask_token(self) -> str:
        """The mask as written in a text: [MASK] or <mask>."""
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
        """Encode texts, or pairs of texts, with the special tokens and type ids of the family.

        BERT: [CLS] a [SEP] b [SEP] with type ids 0 0 0 1 1; RoBERTa: <s> a </s> </s> b </s>, all 0.

        Args:
            texts, pairs: the first and (optionally) second text of each example.
            special: add the special tokens.
            offsets: also return the characters of each token. The space before a word is part of its first token in
                metaspace models, and in byte-level models that do not trim it.
            max_length: truncate longer results at the end of the longer text, or at its beginning if the tokenizer's
                truncation_side is left; special tokens are kept.
        """
        texts, pairs = as_list(texts), None if pairs is None else as_list(pairs, "pairs")
        if pairs is not None and len(pairs) != len(texts):
            raise ValueError(f"{len(texts)} texts but {len(pairs)} pairs; give one second text for each first")
        return self._backend.encode(texts, pairs, special, offsets, max_length)

    def encode_ids(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encode without special tokens, the fastest way: joined ids int32 [n], and lengths int64 [texts].

        ["a b", "", "c"] gives 3 ids, equal to those of `encode_batch(texts, special=False)`, and lengths [2, 0, 1].
        """
        return self._backend.encode_ids(as_list(texts))

    def decode(self, ids: Sequence[int] | np.ndarray, skip_special: bool = True) -> str:
        """Convert ids to text: exactly the original text for byte-level BPE, else the normalized text."""
        return self._backend.decode([self._check_id(index) for index in ids], skip_special)

    def token(self, index: int) -> str:
        """The token of an id, as written in the vocabulary; empty for an unused id."""
        return self._backend.tokens[self._check_id(index)]

    def tokens(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """The tokens of several ids."""
        return [self.token(index) for index in ids]

    def word_starts(self) -> np.ndarray:
        """Table bool [V]: True for tokens that begin a word, special tokens and unused ids.

        A token begins a word if it has no ## (WordPiece), or begins with a space or line break (byte-level) or with the
        metaspace (SentencePiece, unigram). After a special token every token begins a word, whatever the table says:
        byte-level BPE writes no space at the start of a text. In scripts without spaces (see `is_spaceless`) each token
        counts as a word; otherwise a sentence would be one word.
        """
        special = set(self.special_ids)
        tokens = enumerate(self._backend.tokens)
        starts = (not token or i in special or self._backend.starts_word(token) for i, token in tokens)
        return np.fromiter(starts, np.bool_, self.vocab_size)

    def _check_id(self, index: int) -> int:
        if not 0 <= index < self.vocab_size:
            raise ValueError(f"id {index} is outside the vocabulary of {self.vocab_size} tokens")
        return int(index)
