"""The tiny random models of the inference tests."""

from tests.inference.conftest import make_model, model, tokenizer

__all__ = ["make_model", "model", "tokenizer"]
