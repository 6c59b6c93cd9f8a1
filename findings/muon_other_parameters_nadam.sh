#!/usr/bin/env bash
# optax.contrib.muon updates vectors (biases, norms) by a second optimizer.
# A good guess: AdamW without Nesterov momentum, since Muon's Nesterov momentum concerns matrices.
# What happens: the argument nesterov=True, Muon's default, also applies to the second optimizer, which is NAdam then. The
# first update of a vector is 1.47 times the learning rate instead of 1.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 optax==0.2.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax.numpy as jnp
import optax

params, gradients = {"bias": jnp.ones(4)}, {"bias": jnp.full(4, 0.1)}


def first_update(optimizer):
    return float(optimizer.update(gradients, optimizer.init(params), params)[0]["bias"][0])


muon = first_update(optax.contrib.muon(1e-2))
adam, nadam = first_update(optax.adam(1e-2)), first_update(optax.nadam(1e-2))
print(f"optax {optax.__version__}: muon {muon:.6f}, adam {adam:.6f}, nadam {nadam:.6f}")
assert abs(muon - nadam) < 1e-6 and abs(muon - adam) > 1e-3, "the second optimizer of muon changed"
PYTHON
