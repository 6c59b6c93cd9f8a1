"""The tiny runs of tests/tasks."""

from tests.tasks.conftest import (  # noqa: F401
    classifier,
    home,
    masked,
    multi_label_classifier,
    multiple_choice_model,
    pairs,
    question_answering_model,
    regressor,
    token_classifier,
)
