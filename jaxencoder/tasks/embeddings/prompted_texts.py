"""Base of objectives whose texts have prompts, which a trained model stores."""

from dataclasses import dataclass
from typing import Any

from jaxencoder.model.sentence import SentenceConfig
from jaxencoder.tasks.embeddings.compared_texts import ComparedTexts

NO_PROMPT = "none"  # a value of the settings of prompts
_NAMES = {"query_prompt": "query", "document_prompt": "document"}


@dataclass(frozen=True)
class PromptedTexts(ComparedTexts):
    """Base of objectives that compare texts after prompts; ValueError for a name of a prompt without a text."""

    query_prompt: str = ""
    """Text put before each anchor, or the name of a prompt that init_from stores, or none. Empty: its prompt query, or
    else its default prompt, if it has them."""
    document_prompt: str = ""
    """The same for the other texts; empty: its prompt document, or else its default prompt."""
    other_prompts: tuple[str, ...] = ()
    """Name and text, in turn, of other prompts that the model stores for later use. Empty: as init_from has them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.other_prompts) % 2:
            raise ValueError(
                f"objective.other_prompts is {self.other_prompts}; give a name and a text for each prompt."
            )

    @property
    def prompts(self) -> tuple[str, str]:
        query, document = ("" if text == NO_PROMPT else text for text in (self.query_prompt, self.document_prompt))
        return query, document

    def prompt_settings(self, keep_empty: bool = False) -> dict[str, Any]:
        """The settings of a SentenceConfig that stores the prompts; `keep_empty` keeps those of roles without text."""
        names = zip(_NAMES.values(), self.prompts, strict=True)
        more = zip(self.other_prompts[::2], self.other_prompts[1::2], strict=True)
        prompts = tuple((name, text) for name, text in (*names, *more) if text or keep_empty)
        query, document = self.prompts
        default = "query" if query and query == document else None  # one prompt for all texts
        return {"prompts": prompts, "default_prompt": default}

    def prompts_from(self, sentence: SentenceConfig) -> dict[str, Any]:
        """The prompts of the model that training starts from, as settings of the objective, where it leaves them open.

        ValueError for a name of a prompt that the model does not store.
        """
        other_prompts = (pair for pair in sentence.prompts if pair[0] not in _NAMES.values() and pair[1])
        texts = {setting: self._prompt(setting, name, sentence) for setting, name in _NAMES.items()}
        return texts | {"other_prompts": self.other_prompts or tuple(x for pair in other_prompts for x in pair)}

    def _prompt(self, setting: str, name: str, sentence: SentenceConfig) -> str:
        """The text of a prompt: that of the setting, of the stored one of this name, or of the default one."""
        value, stored = getattr(self, setting), dict(sentence.prompts)
        if value == NO_PROMPT:
            return value
        try:
            return sentence.prompt(value or (name if name in stored else None))
        except ValueError as error:
            raise ValueError(f"objective.{setting} is {value!r}: {error}") from None
