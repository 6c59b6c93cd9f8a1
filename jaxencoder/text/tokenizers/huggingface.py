"""The backend of `Tokenizer` over Hugging Face's library, https://github.com/huggingface/tokenizers."""

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from jaxencoder.text.tokenizers.encoding import (
    ROLES,
    Encoding,
    is_spaceless,
    raise_invalid_text,
    special_tokens,
    truncate,
)

# GPT-2's alphabet of bytes: a printable byte stands for itself, the others for the characters from 256 on.
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_UNPRINTABLE = (byte for byte in range(256) if byte not in _PRINTABLE)
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + i): byte for i, byte in enumerate(_UNPRINTABLE)}


class HuggingFaceBackend:
    """A `tokenizers.Tokenizer`, changed in place, whose special tokens are identified.

    `names` has the special tokens of some roles, or None for a role without one; the usual names apply to other roles.
    Long texts are truncated at `truncation_side`. Errors name the source.
    """

    file = "tokenizer.json"

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        names: Mapping[str, str | None],
        source: str,
        truncation_side: str = "right",
    ):
        self.truncation_side = truncation_side
        # A published tokenizer.json often truncates and pads to the length of its model. Rows decide that here.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        vocab = tokenizer.get_vocab(with_added_tokens=True)
        self.names: dict[str, str] = special_tokens(vocab, names, source)
        self.roles = {role: vocab[token] for role, token in self.names.items()}
        self.tokens = [""] * (max(vocab.values()) + 1)
        for token, index in vocab.items():
            self.tokens[index] = token
        added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        tokenizer.add_special_tokens([token for token in self.names.values() if token not in added])
        if tokenizer.post_processor is None and {"cls", "sep"} <= self.roles.keys():
            tokenizer.post_processor = pair_template(self.names, self.roles)
        decoder = tokenizer.get_added_tokens_decoder()
        self.special_ids = {index for index, token in decoder.items() if token.special} | set(self.roles.values())
        self.tokenizer = tokenizer
        self._settings = json.loads(tokenizer.to_str())
        self.name = self._settings["model"]["type"].lower()
        components = (self._settings["pre_tokenizer"], self._settings["decoder"])
        self._components = set().union(*map(_component_types, components))

    def lowercased(self) -> "HuggingFaceBackend":
        """This backend with lowercasing before all other steps; special tokens are matched as they are."""
        changed = tokenizers.Tokenizer.from_str(self.tokenizer.to_str())
        step = changed.normalizer
        is_sequence = isinstance(step, normalizers.Sequence)
        steps = [step[i] for i in range(len(step))] if is_sequence else [step] if step else []
        if any(isinstance(step, normalizers.Lowercase) for step in steps):
            return self
        changed.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])
        names = {role: self.names.get(role) for role in ROLES}
        return HuggingFaceBackend(changed, names, "the tokenizer", self.truncation_side)

    def with_special_tokens(self, tokens: Sequence[str]) -> "HuggingFaceBackend":
        """This backend with more special tokens, which are matched in texts before all other steps."""
        changed = tokenizers.Tokenizer.from_str(self.tokenizer.to_str())
        changed.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in tokens])
        names = {role: self.names.get(role) for role in ROLES}
        return HuggingFaceBackend(changed, names, "the tokenizer", self.truncation_side)

    def state(self) -> bytes:
        """Everything that decides the ids of a text, for the fingerprint."""
        return json.dumps(self._settings, ensure_ascii=False, sort_keys=True).encode()

    def files(self) -> dict[str, bytes]:
        """The files that restore it, by name."""
        return {self.file: self.tokenizer.to_str(pretty=True).encode()}

    def encode(
        self, texts: list, pairs: list | None, special: bool, offsets: bool, max_length: int | None
    ) -> list[Encoding]:
        run = self.tokenizer.encode_batch if offsets else self.tokenizer.encode_batch_fast
        try:
            encoded = run(texts if pairs is None else list(zip(texts, pairs, strict=True)), add_special_tokens=special)
        except BaseException as error:
            raise_invalid_text(texts if pairs is None else [*texts, *pairs], _as_value_error(error))
        return [_to_arrays(item, offsets, max_length, self.truncation_side) for item in encoded]

    def encode_ids(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        try:
            encoded = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except BaseException as error:
            raise_invalid_text(texts, _as_value_error(error))
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        ids = np.fromiter(chain.from_iterable(item.ids for item in encoded), np.int32, int(lengths.sum()))
        return ids, lengths

    def decode(self, ids: list[int], skip_special: bool) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=skip_special)

    def starts_word(self, token: str) -> bool:
        """Whether a token begins a word, by the marker of its family or because its script writes no spaces."""
        if self.name == "wordpiece":
            prefix = self._settings["model"]["continuing_subword_prefix"]
            return not token.startswith(prefix) or is_spaceless(token.removeprefix(prefix))
        if "ByteLevel" in self._components:
            # Space, newline, tab and carriage return in GPT-2's alphabet of bytes.
            return token.startswith(("Ġ", "Ċ", "ĉ", "č")) or is_spaceless(_first_character(token))
        if "Metaspace" in self._components or self.name == "unigram":
            return token.startswith("▁") or is_spaceless(token)
        problem = f"cannot tell where words start in a {self.name} tokenizer with {sorted(self._components)}"
        raise ValueError(f"{problem}; turn whole words off")


def step_content(step: Any) -> dict | None:
    """A normalizer, pre-tokenizer, post-processor or decoder as tokenizer.json has it."""
    return None if step is None else json.loads(step.__getstate__())


def read_steps(**contents: dict | None) -> tokenizers.Tokenizer:
    """A tokenizer of one token with these steps, from which they can be taken; see `step_content`."""
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    return tokenizers.Tokenizer.from_str(json.dumps({"version": "1.0", "model": model, **contents}))


def wordpiece(vocab: dict[str, int], unk: str, normalizer: normalizers.Normalizer) -> tokenizers.Tokenizer:
    """BERT's steps around a WordPiece vocabulary."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=unk))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def byte_level(model: models.BPE, add_prefix_space: bool = False) -> tokenizers.Tokenizer:
    """GPT-2's steps around a byte-level BPE."""
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def end_of_word(vocab: dict[str, int], merges: list[tuple[str, str]], unk: str | None) -> tokenizers.Tokenizer:
    """HerBERT's steps around a BPE that marks the ends of words with </w>."""
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token=unk, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    return tokenizer


def add_special_tokens(tokenizer: tokenizers.Tokenizer, names: dict[str, str], mask_takes_space: bool = True) -> None:
    """Register the special tokens; by default a mask includes the space before it, as in the original RoBERTa."""
    present = (role for role in ROLES if role in names)
    tokenizer.add_special_tokens(
        [AddedToken(names[role], lstrip=mask_takes_space and role == "mask", normalized=False) for role in present]
    )


def pair_template(names: dict[str, str], ids: dict[str, int], roberta: bool = False) -> processors.TemplateProcessing:
    """[CLS] a [SEP] and [CLS] a [SEP] b [SEP], with type id 1 from b on (BERT, DeBERTa, ModernBERT, BigBird).

    With `roberta`, two [SEP] stand between a and b, and all type ids are 0.
    """
    cls, sep = names["cls"], names["sep"]
    single = f"{cls}:0 $A:0 {sep}:0"
    second = f"{sep}:0 $B:0 {sep}:0" if roberta else f"$B:1 {sep}:1"
    tokens = [(cls, ids["cls"]), (sep, ids["sep"])]
    return processors.TemplateProcessing(single=single, pair=f"{single} {second}", special_tokens=tokens)


def is_library_error(error: BaseException) -> bool:
    """Whether the library raised a bare Exception, or panicked, which in Python is no Exception."""
    return type(error) is Exception or type(error).__name__ == "PanicException"


def _as_value_error(error: BaseException) -> BaseException:
    """The library's own error, such as that of an unknown word without an unknown token, as a ValueError."""
    return ValueError(f"the tokenizer cannot encode these texts: {error}") if is_library_error(error) else error


def _to_arrays(item: tokenizers.Encoding, offsets: bool, max_length: int | None, side: str) -> Encoding:
    encoding = Encoding(np.array(item.ids, np.int32), np.array(item.type_ids, np.int32))
    limit = len(item) if max_length is None else max_length
    if not offsets and len(item) <= limit:
        return encoding
    sequence = np.array([-1 if part is None else part for part in item.sequence_ids], np.int8)
    if offsets:
        spans = np.array(item.offsets, np.int32).reshape(len(item), 2)
        encoding = encoding._replace(offsets=spans, sequence=sequence)
    return truncate(encoding, sequence, limit, side) if len(item) > limit else encoding


def _component_types(component: dict | None) -> set[str]:
    """Types of a pre-tokenizer or decoder in tokenizer.json and of those inside it."""
    if component is None:
        return set()
    inner = [item for key in ("pretokenizers", "decoders") for item in component.get(key, ())]
    return {component["type"]}.union(*map(_component_types, inner))


def _first_character(token: str) -> str:
    """The first character of a byte-level token; for one that ends within it, a character of the same block."""
    raw = bytes(_BYTES[letter] for letter in token if letter in _BYTES)
    size = 1 + sum(raw[:1] >= bytes([lead]) for lead in (0xC0, 0xE0, 0xF0))
    return raw[:size].ljust(size, b"\x80").decode("utf-8", "ignore")
