"""A tokenizer.json made from a SentencePiece model, with the model itself to split the text.

Hugging Face's library imitates the rules of a model and differs for half-width katakana with voicing marks, decomposed
Hangul, marks after ligatures, some kinds of spaces, and splits whose scores are equal up to rounding ("!!!!!").
"""

import json
import unicodedata
from collections.abc import Callable, Mapping

import numpy as np
import sentencepiece
import tokenizers

from jaxencoder.text.tokenizers.encoding import ROLES, Encoding
from jaxencoder.text.tokenizers.huggingface import HuggingFaceBackend
from jaxencoder.text.tokenizers.sentencepiece_segments import Block, Layouts, Segments

MODEL_FILE = "tokenizer_pieces.model"


class SentencePieceText(HuggingFaceBackend):
    """A tokenizer.json whose texts are split by a SentencePiece model, of which `model` is the file's content.

    What tokenizer.json puts around the model stays: special tokens, pairs, lowercase, accents, punctuation. Offsets are
    those of SentencePiece: the space before a word belongs to its first token.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        names: Mapping[str, str | None],
        source: str,
        model: bytes,
        truncation_side: str = "right",
    ):
        super().__init__(tokenizer, names, source, truncation_side)
        self.model = model
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{source} has a {MODEL_FILE} that is not a SentencePiece model") from error
        vocab = tokenizer.get_vocab(with_added_tokens=True)
        pieces = [processor.id_to_piece(index) for index in range(len(processor))]
        ordinary = {piece for i, piece in enumerate(pieces) if not (processor.is_control(i) or processor.is_unknown(i))}
        if missing := sorted(ordinary - vocab.keys()):
            raise ValueError(f"{source} has no token {missing[0]!r}, a piece of {MODEL_FILE}; the files do not match")
        ids = np.array([vocab.get(piece, self.roles["unk"]) for piece in pieces], np.int32)
        added = tokenizer.get_added_tokens_decoder().items()
        # The model finds its own user-defined pieces.
        special = {x.content: (x, index) for index, x in added if x.special or x.content not in ordinary}
        isolates = _is_punctuation if "Punctuation" in self._components else None
        prepare, layouts = _first_steps(self._settings["normalizer"]), Layouts(self._layout(False), self._layout(True))
        self._segments = Segments(processor, special, layouts, ids, prepare, isolates)

    def _layout(self, pair: bool) -> list[Block]:
        """What the tokenizer puts around one text, or two."""
        token = self.names["unk"]  # one token, whatever the other steps are
        encoding = self.tokenizer.encode(token, token if pair else None)
        rows = zip(encoding.sequence_ids, encoding.type_ids, encoding.ids, strict=True)
        return [Block(-1 if sequence is None else sequence, type_id, index) for sequence, type_id, index in rows]

    def lowercased(self) -> HuggingFaceBackend:
        changed = super().lowercased()
        names = {role: self.names.get(role) for role in ROLES}
        return SentencePieceText(changed.tokenizer, names, "the tokenizer", self.model, self.truncation_side)

    def state(self) -> bytes:
        return super().state() + self.model

    def files(self) -> dict[str, bytes]:
        return super().files() | {MODEL_FILE: self.model}

    def encode(
        self, texts: list, pairs: list | None, special: bool, offsets: bool, max_length: int | None
    ) -> list[Encoding]:
        return self._segments.encode(texts, pairs, special, offsets, max_length, self.truncation_side)

    def encode_ids(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return self._segments.encode_ids(texts)


def _first_steps(normalizer: dict | None) -> Callable[[str], str] | None:
    """The steps of tokenizer.json before those of the model, for one character; None for none."""
    steps = [normalizer] if normalizer else []
    steps = steps[0]["normalizers"] if steps and steps[0]["type"] == "Sequence" else steps
    of_model = [x["type"] in ("Strip", "Precompiled") or "Regex" in x.get("pattern", ()) for x in steps]
    kept = [step for step, is_of_model in zip(steps, of_model, strict=True) if not is_of_model]
    if not kept:
        return None
    state = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {}, "unk_token": ""}}
    state["normalizer"] = {"type": "Sequence", "normalizers": kept}
    return tokenizers.Tokenizer.from_str(json.dumps(state)).normalizer.normalize_str


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] == "P" or character in "$+<=>^`|~"
