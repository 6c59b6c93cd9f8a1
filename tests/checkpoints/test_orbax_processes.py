"""Checkpoints across processes: killed while saving, read back on another mesh, written by two hosts."""

import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.checkpoints.orbax import CheckpointManager, restore_step
from tests.devices import environment, run_twice


def python(code: str, *args: object) -> list[str]:
    return [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, args)]


SAVER = """
    import sys, jax, jax.numpy as jnp
    from jaxencoder.checkpoints.orbax import CheckpointManager
    checkpoints = CheckpointManager(sys.argv[1], keep=3)
    step = 0
    while True:
        step += 1
        checkpoints.save(step, {"params": {f"w{i}": jnp.full((300, 400), float(step)) for i in range(8)}})
        print(step, flush=True)
"""


def test_sigkill_leaves_only_whole_checkpoints(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        process = subprocess.Popen(
            python(SAVER, folder), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(), text=True
        )
        for _ in range(4):
            assert process.stdout.readline().strip()
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        checkpoints = CheckpointManager(folder, keep=3)
        tree = {f"w{i}": jax.ShapeDtypeStruct((300, 400), jnp.float32) for i in range(8)}
        steps = checkpoints.steps()
        assert steps[-1] >= 3
        for step in steps:
            try:
                restored = restore_step(folder, tree, step)[1]
            except ValueError:  # one that was being deleted
                assert step not in steps[-3:]
                continue
            assert all(np.all(leaf == step) for leaf in jax.tree.leaves(restored))
        checkpoints.save(1000, {"params": {"w": jnp.ones(2)}}, wait=True)
        assert not list(folder.glob("*tmp*"))
        checkpoints.close()
        shutil.rmtree(folder)


MESHES = """
    import sys, jax, jax.numpy as jnp, numpy as np
    from jaxencoder.checkpoints.orbax import CheckpointManager, restore_step
    def mesh(*shape):
        return jax.make_mesh(shape, ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    def place(mesh, spec):
        return jax.NamedSharding(mesh, jax.P(*spec))
    x = jax.random.normal(jax.random.key(0), (16, 24))
    folder, phase = sys.argv[1:]
    if phase == "write":
        checkpoints = CheckpointManager(folder)
        state = {"params": {"w": jax.device_put(x, place(mesh(4, 2), ("a", "b")))}}
        checkpoints.save(1, state, wait=True)
        for shape, spec in (((2, 4), ("b", "a")), ((8, 1), (None, "a")), ((1, 8), ())):
            like = {"params": {"w": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(mesh(*shape), spec))}}
            step, got = checkpoints.restore(like)
            assert got["params"]["w"].sharding == like["params"]["w"].sharding
            assert np.array_equal(got["params"]["w"], x)
        checkpoints.close()
    else:
        got = restore_step(folder)[1]["w"]
        assert isinstance(got, np.ndarray) and np.array_equal(got, x)
        one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        got = restore_step(folder, {"w": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one)})[1]["w"]
        assert len(got.devices()) == 1 and np.array_equal(got, x)
"""


def test_onto_another_mesh(tmp_path: Path) -> None:
    subprocess.run(python(MESHES, tmp_path, "write"), env=environment(8), check=True, timeout=120)
    subprocess.run(python(MESHES, tmp_path, "read"), env=environment(1), check=True, timeout=120)


TWO = """
    import sys, jax, jax.numpy as jnp, numpy as np
    folder, port, index = sys.argv[1], sys.argv[2], int(sys.argv[3])
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, index)
    from jaxencoder.checkpoints.orbax import CheckpointManager
    from pathlib import Path
    mesh = jax.make_mesh((2,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("a"))
    x = np.arange(32, dtype=np.float32).reshape(4, 8)
    w = jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])
    checkpoints = CheckpointManager(folder)
    for step in (1, 2):
        checkpoints.save(step, {"params": {"w": w * step}}, {"loss": 1.0})
    checkpoints.wait()
    like = {"params": {"w": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)}}
    for expected in (2, 1):
        step, got = checkpoints.restore(like)
        assert step == expected, (step, expected)
        for shard in got["params"]["w"].addressable_shards:
            assert np.array_equal(shard.data, x[shard.index] * expected)
        if expected == 2:
            jax.experimental.multihost_utils.sync_global_devices("read")
            if index == 0:
                files = [f for f in (Path(folder) / "2" / "params").rglob("d/*") if f.is_file()]
                for f in files:
                    f.write_bytes(b"")
            jax.experimental.multihost_utils.sync_global_devices("damaged")
    checkpoints.close()
"""


def test_two_processes(tmp_path: Path) -> None:
    run_twice("-c", textwrap.dedent(TWO), tmp_path)
    got = restore_step(tmp_path)[1]["w"]
    assert np.array_equal(got, np.arange(32, dtype=np.float32).reshape(4, 8))
