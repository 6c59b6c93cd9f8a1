"""Checkpoints: exact, whole or absent whatever happens to the process, the disk or the mesh."""

import logging
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxencoder.checkpoints import orbax
from jaxencoder.checkpoints.orbax import CheckpointManager, restore_step
from jaxencoder.training.config import OptimizerConfig
from jaxencoder.training.optimizers import make_optimizer


def params(seed: int = 0) -> dict:
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "encoder": {
            "layers": {"block_0": {"up": {"kernel": jax.random.normal(keys[0], (4, 16, 24))}}},
            "norm": {"scale": jax.random.normal(keys[1], (16,)).astype(jnp.bfloat16)},
        },
        "head": {"bias": jax.random.normal(keys[2], ())},
    }


def state(seed: int = 0, name: str = "adamw") -> dict:
    tree = params(seed)
    optimizer = make_optimizer(OptimizerConfig(name=name, min_dim_size_to_factor=8), 100)
    return {"params": tree, "optimizer": optimizer.init(tree)}


def abstract(tree: dict) -> dict:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def assert_same(a: dict, b: dict) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def save_all(folder: Path, steps: list[int], **settings: object) -> None:
    checkpoints = CheckpointManager(folder, **settings)
    for step in steps:
        checkpoints.save(step, state(step))
    checkpoints.close()


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor", "muon", "stable_adamw"])
def test_round_trip_is_exact(tmp_path: Path, name: str) -> None:
    saved = state(1, name)
    checkpoints = CheckpointManager(tmp_path / "c")
    assert checkpoints.restore(abstract(saved)) is None
    checkpoints.save(3, saved)
    checkpoints.close()
    step, restored = CheckpointManager(tmp_path / "c").restore(abstract(saved))
    assert step == 3
    assert_same(restored, saved)
    assert isinstance(restored["optimizer"], type(saved["optimizer"]))


def test_training_goes_on_while_saving(tmp_path: Path) -> None:
    advance = jax.jit(lambda tree: jax.tree.map(lambda x: x * 1.5 + 1, tree), donate_argnums=0)
    tree = {"big": jnp.arange(2_000_000, dtype=jnp.float32), "small": jnp.ones((3,))}
    checkpoints = CheckpointManager(tmp_path, keep=9)
    expected = {}
    for step in range(4):
        expected[step] = jax.tree.map(lambda x: np.array(x, copy=True), tree)
        checkpoints.save(step, {"params": tree})
        for _ in range(5):
            tree = advance(tree)
    checkpoints.close()
    for step, before in expected.items():
        assert_same(restore_step(tmp_path, step=step)[1], before)


def test_keeps_newest_and_best(tmp_path: Path) -> None:
    checkpoints = CheckpointManager(tmp_path, keep=2, best="loss")
    losses = {1: 3.0, 2: 1.0, 3: None, 4: 2.0, 5: float("nan"), 6: None}
    for step, loss in losses.items():
        checkpoints.save(step, {"params": params(step)}, None if loss is None else {"loss": loss})
    checkpoints.wait()
    assert (checkpoints.steps(), checkpoints.best()) == ([2, 5, 6], 2)
    checkpoints.close()
    again = CheckpointManager(tmp_path, keep=2, best="loss")
    assert (again.steps(), again.best()) == ([2, 5, 6], 2)
    assert_same(restore_step(tmp_path, step="best")[1], jax.tree.map(np.asarray, params(2)))
    assert_same(restore_step(tmp_path)[1], jax.tree.map(np.asarray, params(6)))
    with pytest.raises(ValueError, match="accuracy"):
        restore_step(tmp_path, step="best", metric="accuracy")[1]


def test_higher_is_better(tmp_path: Path) -> None:
    checkpoints = CheckpointManager(tmp_path, keep=1, best="accuracy", higher_is_better=True)
    for step, accuracy in enumerate([0.1, 0.9, 0.5, 0.4]):
        checkpoints.save(step, {"params": params(step)}, {"accuracy": accuracy})
    checkpoints.wait()
    assert (checkpoints.steps(), checkpoints.best()) == ([1, 3], 1)
    checkpoints.close()


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save_all(tmp_path, [1, 2])
    checkpoints = CheckpointManager(tmp_path)
    checkpoints.save(2, state(7), wait=True)
    assert checkpoints.steps() == [1, 2]
    assert_same(checkpoints.restore(abstract(state()))[1], state(7))
    checkpoints.close()


def files(folder: Path) -> dict[str, Path]:
    """The files of one part without which it cannot be read."""
    part = folder / "params"
    data = max((f for f in part.rglob("*") if f.is_file() and f.parent.name == "d"), key=lambda f: f.stat().st_size)
    named = {"manifest": part / "manifest.ocdbt", "tree": part / "_METADATA"}
    return named | {"part": part, "sums": folder / "checksums", "data": data}


def damage(file: Path, how: str) -> None:
    if file.is_dir():
        shutil.rmtree(file)
    elif how == "deleted":
        file.unlink()
    elif how == "flipped":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        os.truncate(file, {"empty": 0, "cut": file.stat().st_size // 2}[how])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 10 and 20."""
    folder = tmp_path_factory.mktemp("two")
    save_all(folder, [10, 20])
    return folder


@pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("which", "how"),
    [
        *(("data", how) for how in ("deleted", "cut", "flipped")),
        ("manifest", "empty"),
        ("tree", "cut"),
        ("part", "deleted"),
        ("sums", "deleted"),
    ],
)
def test_damaged_newest_is_passed_over(two: Path, tmp_path: Path, caplog, which: str, how: str) -> None:
    folder = shutil.copytree(two, tmp_path / "run")
    damage(files(folder / "20")[which], how)
    with caplog.at_level(logging.WARNING):
        got = restore_step(folder)[1]
    assert_same(got, jax.tree.map(np.asarray, params(10)))
    assert [record.name for record in caplog.records] == [orbax.__name__]
    caplog.clear()
    checkpoints = CheckpointManager(folder)
    with caplog.at_level(logging.WARNING):
        step, restored = checkpoints.restore(abstract(state()))
    assert step == 10
    assert_same(restored, state(10))
    (record,) = caplog.records
    assert "20" in record.getMessage() and "\n" not in record.getMessage() and len(record.getMessage()) < 500
    # The run goes on: the damaged one is out of the way and neither counts as newest nor stops a save.
    assert checkpoints.steps() == [10]
    checkpoints.save(15, state(15))
    checkpoints.save(20, state(21), wait=True)
    assert checkpoints.steps() == [15, 20]
    assert_same(checkpoints.restore(abstract(state()))[1], state(21))
    checkpoints.close()


@pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning")
def test_all_damaged(tmp_path: Path) -> None:
    save_all(tmp_path, [1, 2])
    for step in "12":
        damage(files(tmp_path / step)["data"], "flipped")
    checkpoints = CheckpointManager(tmp_path)
    for read in (lambda: checkpoints.restore(abstract(state())), lambda: restore_step(tmp_path)[1]):
        with pytest.raises(ValueError, match=r"No checkpoint in .* can be read") as error:
            read()
        assert "\n" not in str(error.value)
    assert checkpoints.steps() == [1, 2]
    checkpoints.close()


def test_mismatch_names_the_parameter(tmp_path: Path) -> None:
    save_all(tmp_path, [1])
    checkpoints = CheckpointManager(tmp_path)
    wanted = abstract(state())
    wanted["params"]["encoder"]["norm"]["scale"] = jax.ShapeDtypeStruct((17,), jnp.bfloat16)
    with pytest.raises(ValueError, match=r"params 'encoder/norm/scale' of shape \(16,\), not \(17,\)"):
        checkpoints.restore(wanted)
    with pytest.raises(ValueError, match="optimizer"):
        checkpoints.restore(abstract(state(name="adafactor")))
    with pytest.raises(ValueError, match="holds no 'ema'"):
        checkpoints.restore({"ema": wanted["params"]})
    more = abstract(params()) | {"extra": jax.ShapeDtypeStruct((2,), jnp.float32)}
    with pytest.raises(ValueError, match="no params 'extra'"):
        restore_step(tmp_path, more)[1]
    with pytest.raises(ValueError, match="'head/bias'"):
        restore_step(tmp_path, {"encoder": abstract(params())["encoder"]})[1]
    assert checkpoints.steps() == [1]
    checkpoints.close()


def test_nothing_there(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match="No checkpoint in"):
            restore_step(folder)[1]
    assert not (tmp_path / "absent").exists()
    save_all(tmp_path, [4])
    with pytest.raises(FileNotFoundError, match="there are 4"):
        restore_step(tmp_path, step=5)[1]
    with pytest.raises(ValueError, match="at least 1"):
        CheckpointManager(tmp_path, keep=0)


def test_restored_parts_are_cast(tmp_path: Path) -> None:
    save_all(tmp_path, [1])
    half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float16, sharding=x.sharding), params())
    got = restore_step(tmp_path, half)[1]
    assert_same(got, jax.tree.map(lambda x: x.astype(jnp.float16), params(1)))
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(got))


def test_failed_save_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = CheckpointManager(tmp_path)
    full = ValueError("ENOSPC [spec={}]")
    monkeypatch.setattr(checkpoints._checkpointer, "wait", lambda: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match=r"Could not save a checkpoint in .*: ENOSPC; check") as error:
        checkpoints.save(1, state())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, jnp.bool_])
def test_checksum_sees_every_change(dtype: jnp.dtype) -> None:
    x = np.asarray((jax.random.normal(jax.random.key(0), (6, 5, 4)) * 5).astype(dtype))
    before = orbax._checksums({"x": x})
    assert before == orbax._checksums({"x": jnp.asarray(x)})
    for place in range(0, x.nbytes, 7):
        changed = np.frombuffer(bytearray(x.tobytes()), x.dtype).reshape(x.shape)
        changed.view(np.uint8).reshape(-1)[place] ^= 1
        assert orbax._checksums({"x": changed}) != before
    if dtype == jnp.float32:
        assert orbax._checksums({"x": x[::-1]}) != before
        assert orbax._checksums({"x": x.swapaxes(0, 1)}) != before


def test_optimizer_continues_exactly(tmp_path: Path) -> None:
    optimizer = make_optimizer(OptimizerConfig(name="muon"), 10)

    @jax.jit
    def update(state: dict, seed: int) -> dict:
        grads = jax.tree.map(lambda x: jnp.sin(x + seed), state["params"])
        updates, new = optimizer.update(grads, state["optimizer"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "optimizer": new}

    straight = {"params": params(), "optimizer": optimizer.init(params())}
    for step in range(6):
        if step == 3:
            checkpoints = CheckpointManager(tmp_path)
            checkpoints.save(3, straight, wait=True)
            _, resumed = checkpoints.restore(abstract(straight))
            checkpoints.close()
        straight = update(straight, step)
    for step in range(3, 6):
        resumed = update(resumed, step)
    assert_same(resumed, straight)
