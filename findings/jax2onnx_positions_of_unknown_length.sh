#!/usr/bin/env bash
# jax2onnx exports functions of arrays whose sizes are names, such as ("B", "T").
# A good guess: jnp.arange(x.shape[1]), the positions of tokens in every encoder, has T numbers and can be broadcast to
# x.shape, as when jax.export traces the same function with the same symbolic sizes.
# What happens: while jax2onnx traces, the length of jnp.arange is a placeholder that equals no size, and
# jnp.broadcast_to raises ValueError.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 flax==0.12.8 jax2onnx==0.17.1
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import jax
import jax.numpy as jnp
from jax2onnx import to_onnx


def with_positions(x):
    return x + jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape)


shape = jax.export.symbolic_shape("B, T")
traced = jax.export.export(jax.jit(with_positions))(jax.ShapeDtypeStruct(shape, jnp.float32))
print(f"jax {jax.__version__}: {traced.in_avals[0]} -> {traced.out_avals[0]}")
try:
    to_onnx(with_positions, [("B", "T")])
except ValueError as error:
    print(f"jax2onnx {version('jax2onnx')}: {str(error).splitlines()[0]}")
    assert "DYNAMIC_DIM" in str(error), "another error"
else:
    raise SystemExit("jax2onnx exports positions of unknown length now")
PYTHON
