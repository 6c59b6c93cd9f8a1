"""Tokens that a folder adds to a vocabulary, and the segments that it leaves out."""

from typing import Any

import tokenizers
from tokenizers import AddedToken

from jaxencoder.text.tokenizers.classes import CLASS_TOKENS
from jaxencoder.text.tokenizers.huggingface import read_steps, step_content
from jaxencoder.text.tokenizers.settings import SpecialToken, TokenizerSettings


def add_tokens(
    tokenizer: tokenizers.Tokenizer, settings: TokenizerSettings, table_size: int | None, is_from_json: bool
) -> None:
    """Add the folder's tokens with their flags, in the order of transformers; ValueError for another id than it says.

    `is_from_json`: the tokenizer is that of tokenizer.json.

    A token that only its name brings in, and for which the model's token table of `table_size` rows has no room, is
    left out: transformers adds the usual names to every vocabulary.
    """
    special = {item.token.content for item in settings.special_tokens}
    for number, token in settings.added_tokens.items():
        token.special = token.special or token.content in special
        tokenizer.add_tokens([token])
        if (index := tokenizer.token_to_id(token.content)) != number:
            problem = f"{settings.source} gives the added token {token.content!r} the id {number}"
            raise ValueError(f"{problem}, but in its vocabulary it has {index}; correct the id, or the vocabulary")
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    numbered = {token.content for token in settings.added_tokens.values()}
    of_class = [] if table_size is None else _class_tokens(settings)
    for token, has_flags in (*settings.special_tokens, *of_class):
        # The flags of tokenizer.json win over those of the settings, and these over those of other files.
        if token.content in numbered or (token.content in added and (is_from_json or not has_flags)):
            continue
        has_room = table_size is None or tokenizer.get_vocab_size(with_added_tokens=True) < table_size
        if has_room or tokenizer.token_to_id(token.content) is not None:
            tokenizer.add_tokens([AddedToken(**flags(token))])


def _class_tokens(settings: TokenizerSettings) -> list[SpecialToken]:
    """The tokens of roles that the settings do not name, which the class adds to a vocabulary without them."""
    tokens = [settings.names[role] for role in CLASS_TOKENS.get(settings.family, ())]
    return [SpecialToken(AddedToken(token, special=True), has_flags=False) for token in tokens if token is not None]


def flags(token: AddedToken) -> dict[str, Any]:
    """The arguments of an added token."""
    return {
        name: getattr(token, name) for name in ("content", "lstrip", "rstrip", "single_word", "normalized", "special")
    }


def remove_segments(tokenizer: tokenizers.Tokenizer) -> None:
    """Give all tokens the type id 0, as of model_input_names without token_type_ids."""
    content = _single_segment(step_content(tokenizer.post_processor))
    tokenizer.post_processor = read_steps(post_processor=content).post_processor


def _single_segment(step: dict[str, Any] | None) -> dict[str, Any] | None:
    if step is None:
        return None
    if step["type"] == "Sequence":
        return step | {"processors": [_single_segment(part) for part in step["processors"]]}
    if step["type"] == "BertProcessing":
        (cls, cls_id), (sep, sep_id) = step["cls"], step["sep"]
        pieces = {token: {"id": token, "ids": [i], "tokens": [token]} for token, i in ((cls, cls_id), (sep, sep_id))}
        special = {name: {"SpecialToken": {"id": name, "type_id": 0}} for name in pieces}
        first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
        single = [special[cls], first, special[sep]]
        pair = [*single, second, special[sep]]
        return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": pieces}
    if step["type"] == "TemplateProcessing":
        templates = {
            name: [{kind: value | {"type_id": 0} for kind, value in piece.items()} for piece in step[name]]
            for name in ("single", "pair")
        }
        return step | templates
    return step
