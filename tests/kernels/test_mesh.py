"""Attention with rows, heads and queries split over devices equals that of one device, packed and with dropout."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.kernels.inputs import AttentionInputs
from jaxencoder.kernels.mesh import on_mesh
from jaxencoder.sharding import MeshConfig, make_mesh
from tests.devices import results_on_eight
from tests.kernels.eight_devices import CASES
from tests.kernels.examples import inputs, segments


def test_eight_devices_equal_one() -> None:
    """Output, and gradients of queries, keys, values and all tables: one process for all cases of eight_devices.py."""
    differences = results_on_eight("tests/kernels/eight_devices.py")
    assert differences.keys() == CASES.keys()
    for case, values in differences.items():
        assert len(values) == (4 if "single_pass" in case else 7) and max(values) < 1e-5, f"{case}: {values}"


def test_without_a_mesh_nothing_is_split() -> None:
    T = 5
    arrays, ids = inputs(T), jnp.asarray(segments(T))

    def attend(shard: AttentionInputs) -> jax.Array:
        assert shard.offset == 0 and shard.seed.tolist()[1:] == [0, 0, 0] and shard.q_segments is shard.k_segments
        return shard.q

    for mesh in (contextlib.nullcontext(), jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1]))):
        with mesh:
            full = AttentionInputs(*arrays, None, ids, ids)
            out = on_mesh(attend, full, jax.random.key(0), window=0, kernel=True)
        np.testing.assert_array_equal(out, arrays[0])
