"""Token ids that clients send and get: of which text they are, and the tokens of texts."""

from collections.abc import Sequence
from typing import Any

from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.windows import special_tokens

_ADVICE = "send texts (langchain-openai: check_embedding_ctx_length=False), or ids of this model's tokenizer"


def text_of_ids(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of token ids, with or without the special tokens around it.

    Raises:
        ValueError: the text does not give these ids again, as is so with those of another tokenizer.
    """
    if unknown_ids := [i for i in ids if not 0 <= i < tokenizer.vocab_size]:
        raise ValueError(f"token id {unknown_ids[0]} is outside this model's vocabulary; {_ADVICE}")
    before, after = (x.tolist() for x in special_tokens(tokenizer))
    first, last = len(before), len(ids) - len(after)
    inner = list(ids)
    if first <= last and inner[:first] == before and inner[last:] == after:
        inner = inner[first:last]
    text = tokenizer.decode(inner, skip_special=False)
    (again,) = tokenizer.encode_batch([text], special=False)
    if again.ids.tolist() != inner:
        raise ValueError(f"these token ids are not what this model's tokenizer makes of {text[:40]!r}; {_ADVICE}")
    return text


def described_tokens(tokenizer: Tokenizer, texts: Sequence[str], special: bool = True) -> list[list[dict[str, Any]]]:
    """The tokens of each text: "id", "text", "special", and "start" and "stop" in characters, None if added."""
    rows = []
    for text, encoding in zip(texts, tokenizer.encode_batch(texts, special=special, offsets=True), strict=True):
        tokens = []
        columns = encoding.ids.tolist(), encoding.offsets.tolist(), encoding.sequence.tolist()
        for i, (start, stop), part in zip(*columns, strict=True):
            is_added = part < 0
            tokens.append({
                "id": i,
                "text": tokenizer.token(i) if is_added else text[start:stop],
                "special": is_added or i in tokenizer.special_ids,
                "start": None if is_added else start,
                "stop": None if is_added else stop,
            })  # fmt: skip
        rows.append(tokens)
    return rows
