"""The backend of `Tokenizer` over SentencePiece: Kudo and Richardson, EMNLP 2018, arXiv:1808.06226."""

import json
from itertools import groupby

import numpy as np
import sentencepiece
from tokenizers import AddedToken

from jaxencoder.text.tokenizers.encoding import USUAL_NAMES, Encoding, is_spaceless, special_tokens
from jaxencoder.text.tokenizers.sentencepiece_segments import Block, Layouts, Segments


class SentencePieceBackend:
    """A SentencePiece model, from its file's content, with the methods and arguments of `HuggingFaceBackend`.

    Special tokens written in a text become their ids, as in Hugging Face's library. A missing [MASK] gets the id after
    the last piece, as in DeBERTa. No other token is added: a family that shifts the model's ids, such as XLM-R, would
    load with wrong ones.
    """

    file = "spm.model"
    truncation_side = "right"

    def __init__(self, model: bytes, names: dict[str, str], source: str):
        self._bytes = model
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model)
            pieces = [self._model.id_to_piece(index) for index in range(len(self._model))]
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{source} is not a SentencePiece model; check the file") from error
        self.tokens = pieces
        masks = (names["mask"],) if "mask" in names else USUAL_NAMES["mask"]
        if not set(masks) & set(pieces):
            # Without a configuration, <mask> or [MASK] as the other special tokens are written.
            self.tokens = [*pieces, masks[0] if "[CLS]" in pieces else masks[-1]]
        ids = {token: index for index, token in enumerate(self.tokens)}
        named = special_tokens(ids, names, source, required=("unk", "cls", "sep"))
        self.roles = {role: ids[token] for role, token in named.items()}
        controls = {index for index in range(len(pieces)) if self._model.is_control(index)}
        self.special_ids = controls | set(self.roles.values())
        special = {self.tokens[index]: (AddedToken(self.tokens[index]), index) for index in self.special_ids}
        cls, sep = (Block(-1, 0, self.roles[role]) for role in ("cls", "sep"))
        single = [cls, Block(0, 0), sep]
        layouts = Layouts(single, [*single, Block(1, 1), sep._replace(type_id=1)])
        self._segments = Segments(self._model, special, layouts)
        # The library does not expose the algorithm. BPE scores are minus the rank, unigram scores are not integers.
        ordinary = [i for i in range(len(pieces)) if i not in controls and not self._model.is_unknown(i)]
        ordinary = [i for i in ordinary if not self._model.is_byte(i) and self._model.get_score(i) != 0][:64]
        is_bpe = all(float(self._model.get_score(i)).is_integer() for i in ordinary)
        self.name = "sentencepiece-bpe" if is_bpe else "sentencepiece-unigram"

    def lowercased(self) -> "SentencePieceBackend":
        raise ValueError("a SentencePiece model has no lowercasing step; give the tokenizer as tokenizer.json")

    def state(self) -> bytes:
        return self._bytes + json.dumps([self.tokens[-1], sorted(self.roles.items())]).encode()

    def files(self) -> dict[str, bytes]:
        return {self.file: self._bytes}

    def encode(
        self, texts: list, pairs: list | None, special: bool, offsets: bool, max_length: int | None
    ) -> list[Encoding]:
        return self._segments.encode(texts, pairs, special, offsets, max_length, self.truncation_side)

    def encode_ids(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return self._segments.encode_ids(texts)

    def decode(self, ids: list[int], skip_special: bool) -> str:
        if skip_special:
            return self._model.decode([index for index in ids if index not in self.special_ids])
        # The model has no added [MASK] and drops control symbols, so special tokens are written here.
        written, texts = self.special_ids - {self.roles["unk"]}, []
        for is_written, group in groupby(ids, written.__contains__):
            indices = list(group)
            texts += [self.tokens[index] for index in indices] if is_written else [self._model.decode(indices)]
        return " ".join(filter(None, texts))

    def starts_word(self, token: str) -> bool:
        return token.startswith("▁") or is_spaceless(token)
