"""Base of objectives whose texts have prompts, which a trained model stores."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

from jaxencoder.model.sentence import SentenceConfig, is_name
from jaxencoder.objectives.objective import Objective, Vocabulary
from jaxencoder.tasks.embeddings.compared_texts import ComparedTexts
from jaxencoder.tasks.embeddings.losses import LOSSES
from jaxencoder.tasks.embeddings.prompts import NO_PROMPT, chosen_prompt, prompt_counter
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

_NAMES = {"query_prompt": "query", "document_prompt": "document"}  # settings -> prompts that a model stores


@dataclass(frozen=True)
class PromptedTexts(ComparedTexts):
    """Base of objectives that compare texts after prompts; ValueError for a name of a prompt without a text."""

    query_prompt: str = ""
    """Text put before each anchor, or the name of a prompt that init_from stores, or none. Empty: its prompt query, or
    else its default prompt, if it has them."""
    document_prompt: str = ""
    """The same for the other texts, and for single texts with classes; empty: its prompt document, or else its default
    prompt."""
    query_prompts: tuple[str, ...] = ()
    """The query_prompt of each source in objective.losses. The model stores query_prompt alone."""
    document_prompts: tuple[str, ...] = ()
    """The document_prompt of each source in objective.losses. The model stores document_prompt alone."""
    other_prompts: tuple[str, ...] = ()
    """Name and text, in turn, of other prompts that the model stores for later use. Empty: as init_from has them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.other_prompts) % 2:
            raise ValueError(
                f"objective.other_prompts is {self.other_prompts}; give a name and a text for each prompt."
            )
        names = [*_NAMES.values(), *self.other_prompts[::2]]
        if twice := next((name for name in names if names.count(name) > 1), ""):
            problem = f"objective.other_prompts is {self.other_prompts}, and the model stores one prompt {twice!r}"
            raise ValueError(f"{problem}; give each its own name, and query and document by their own settings.")
        for name in ("query_prompts", "document_prompts"):
            if (texts := getattr(self, name)) and len(texts) != len(self.losses):
                problem = f"objective.{name} has {len(texts)} texts, but objective.losses {len(self.losses)} losses"
                raise ValueError(f"{problem}; give one for each source, or none.")
        for name in ("query_prompt", "query_prompts"):
            value = getattr(self, name)
            texts = value if isinstance(value, tuple) else (value,)
            if not self._has_anchors and set(texts) - {"", NO_PROMPT}:
                problem = f"objective.{name} is {value!r}, but {self.all_losses[0]} learns single texts, none an anchor"
                raise ValueError(f"{problem}; give objective.{name.replace('query', 'document')}.")

    @property
    def _has_anchors(self) -> bool:
        """Whether a record has an anchor and other texts, not single ones with a class."""
        return LOSSES[self.all_losses[0]].labels != "text_classes"

    @property
    def prompts(self) -> tuple[str, str]:
        query, document = ("" if text == NO_PROMPT else text for text in (self.query_prompt, self.document_prompt))
        return query if self._has_anchors else document, document

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
        texts: dict[str, Any] = {}
        for setting, name in _NAMES.items():
            of_sources = getattr(self, f"{setting}s")
            chosen = [chosen_prompt(f"objective.{setting}s", text, name, sentence) for text in of_sources]
            texts[f"{setting}s"] = tuple(text or NO_PROMPT for text in chosen)
            texts[setting] = chosen_prompt(f"objective.{setting}", getattr(self, setting), name, sentence)
        if not self._has_anchors:  # those of the model are not used
            texts |= {"query_prompt": NO_PROMPT, "query_prompts": (NO_PROMPT,) * len(self.query_prompts)}
        return texts | {"other_prompts": self.other_prompts or tuple(x for pair in other_prompts for x in pair)}

    def continued_from(self, saved: Self) -> Self:
        """The texts that names of prompts stood for when the run began are those of the saved objective."""
        prompts: dict[str, Any] = {"other_prompts": self.other_prompts or saved.other_prompts}
        stored = dict(saved.sentence.prompts)
        for name in _NAMES:
            prompts[name] = _resolved(getattr(self, name), getattr(saved, name), stored)
            texts, of_saved = (getattr(objective, f"{name}s") for objective in (self, saved))
            pairs = zip(texts, of_saved if len(texts) == len(of_saved) else texts, strict=True)
            prompts[f"{name}s"] = tuple(_resolved(*pair, stored) for pair in pairs)
        open_prompts = {name: getattr(PromptedTexts, name) for name in prompts}
        started = super(PromptedTexts, dataclasses.replace(self, **open_prompts)).continued_from(saved)
        return dataclasses.replace(started, **prompts)

    def with_prompt_counts(self, objective: Objective, vocabulary: Vocabulary, are_pooled: bool = True) -> Objective:
        """The functions of an objective on batches with the numbers of the prompts' tokens, see `prompt_counter`."""
        prompts = [part.prompts for part in self.by_source or (self,)]
        if not any(map(any, prompts)):
            return objective
        with_counts = prompt_counter(cast(Tokenizer, vocabulary), prompts, are_pooled)

        def with_prompts(function: Callable[..., Any]) -> Callable[..., Any]:
            return lambda params, batch, key, train: function(params, with_counts(batch), key, train)

        assert objective.scores is not None  # the objectives of tasks have them
        return objective._replace(loss=with_prompts(objective.loss), scores=with_prompts(objective.scores))

    def of_source(self, number: int) -> Self:
        settings: dict[str, Any] = {}
        for name in _NAMES:
            if texts := getattr(self, f"{name}s"):
                settings |= {name: texts[number], f"{name}s": ()}
        return super(PromptedTexts, dataclasses.replace(self, **settings)).of_source(number)


def _resolved(value: str, saved_text: str, stored: Mapping[str, str]) -> str:
    """The prompt of a continued run: the value of its setting, or the saved text if it is empty or a prompt's name."""
    is_text = value == NO_PROMPT or not (value in ("", *stored) or is_name(value))
    return value if is_text else saved_text
