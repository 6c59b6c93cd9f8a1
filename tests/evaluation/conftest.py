"""The tiny runs of tests/tasks."""

from tests.tasks.conftest import (  # noqa: F401
    chooser,
    classifier,
    home,
    labeller,
    masked,
    pairs,
    reader,
    regressor,
    tagger,
)
