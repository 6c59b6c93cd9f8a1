"""Rows shared among the devices of a process, and float32 products that are none of fewer bits."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxencoder.inference.devices import compute_context
from jaxencoder.model.config import ComputeConfig

ROOT = Path(__file__).resolve().parents[2]


def test_rows_are_shared_among_devices():
    """In a process of its own: the number of devices is fixed when jax starts."""
    code = """
import jax, numpy as np
from tests.inference.conftest import SENTENCES
from jaxencoder.config import RunConfig
from jaxencoder.api import Model
from jaxencoder.inference.devices import place
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.objectives.mlm import MaskedLM
from jaxencoder.text.config import TokenizerConfig
from jaxencoder.text.tokenizers.training import train_tokenizer
tokenizer = train_tokenizer(SENTENCES, TokenizerConfig(vocab_size=120))
shape = EncoderConfig(num_layers=1, hidden_size=16, mlp_size=16, num_heads=2, max_length=128, vocab_size=120)
compute = ComputeConfig(dtype="float32")
params = jax.jit(MaskedLM().build(shape, compute, tokenizer).init)(jax.random.key(0))
model = Model(RunConfig(model=shape), params, tokenizer, compute=compute)
placed = place({"token_ids": np.zeros((8, 16), np.int32)}, model.mesh)["token_ids"]
assert len(placed.sharding.device_set) == 4 and placed.sharding.shard_shape(placed.shape) == (2, 16)
together = model.embed(SENTENCES[:21], batch_tokens=128)
alone = np.concatenate([model.embed([s]) for s in SENTENCES[:21]])
assert not place({"token_ids": np.zeros((1, 16), np.int32)}, model.mesh)["token_ids"].sharding.spec[0]
np.testing.assert_allclose(together, alone, atol=1e-5)
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", code], env=os.environ | flags, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(("dtype", "precise"), [("float32", True), ("bfloat16", False)])
def test_float32_is_float32_on_every_device(model, dtype, precise):
    """What XLA is told of the products: a CPU computes them in float32 anyway."""
    x = jnp.ones((4, 4), dtype)
    with compute_context(model.mesh, ComputeConfig(dtype=dtype)):
        program = jax.jit(jnp.matmul).lower(x, x).as_text()
    assert ("precision = [HIGHEST, HIGHEST]" in program) == precise


def test_embeddings_are_computed_so(model, monkeypatch):
    seen = []

    def function(params, batch):
        seen.append((jax.config.jax_default_matmul_precision, jax.sharding.get_abstract_mesh().axis_names))
        return batch["token_ids"]

    assert list(model.run(function, model.tokenize(["a text"])))
    assert seen == [("float32", model.mesh.axis_names)]
