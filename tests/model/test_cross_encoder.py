import numpy as np
import pytest

from jaxencoder.model.cross_encoder import CrossEncoderConfig
from jaxencoder.model.sentence import ACTIVATIONS


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_modules(name):
    logits = np.linspace(-20, 20, 81).reshape(27, 3)
    scores = CrossEncoderConfig(name).scores(logits)
    assert scores.dtype == np.float64 and scores.shape == logits.shape
    np.testing.assert_allclose(scores, ACTIVATIONS[name](logits.astype(np.float32)), rtol=1e-6, atol=2e-6)
