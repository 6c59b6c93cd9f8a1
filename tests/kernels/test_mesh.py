"""Attention whose rows, heads and queries are split over devices equals that of one, packed and with dropout."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.kernels.mesh import on_mesh
from jaxencoder.sharding import MeshConfig, make_mesh
from tests.kernels.eight_devices import CASES
from tests.kernels.examples import inputs, segments


def test_eight_devices_equal_one() -> None:
    """Output, and gradients of queries, keys, values and all tables: one process for all cases of eight_devices.py."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-W", "error", str(root / "tests/kernels/eight_devices.py")]
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PYTHONPATH": str(root)}
    flags |= {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # warns of what another process has not written to its end
    done = subprocess.run(command, env=os.environ | flags, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    differences = json.loads(done.stdout)
    assert differences.keys() == CASES.keys()
    for case, found in differences.items():
        assert len(found) == 7 and max(found) < 1e-5, f"{case}: {found}"


def test_without_a_mesh_nothing_is_split() -> None:
    T = 5
    arrays, ids = inputs(T), jnp.asarray(segments(T))

    def attend(shard) -> jax.Array:
        assert shard.offset == 0 and shard.seed.tolist()[1:] == [0, 0, 0] and shard.arrays[3] is shard.arrays[4]
        return shard.arrays[0]

    for mesh in (contextlib.nullcontext(), jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1]))):
        with mesh:
            out = on_mesh(attend, *arrays, ids, None, jax.random.key(0), window=0, kernel=True)
        np.testing.assert_array_equal(out, arrays[0])
