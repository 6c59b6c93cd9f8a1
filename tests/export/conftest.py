"""The tiny models of `tests/inference`."""

from tests.inference.conftest import make_model, tokenizer  # noqa: F401
