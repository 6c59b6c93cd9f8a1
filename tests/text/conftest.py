"""A tokenizer of the small corpus."""

import pytest

from jaxencoder.text.config import TokenizerConfig
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.tokenizers.training import train_tokenizer
from tests.text.corpus import WORDS


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer([" ".join(WORDS)] * 5, TokenizerConfig(vocab_size=120))
