"""Batches depend on (seed, step) alone, miss no row, and reach the devices that hold their rows.

Orders of rows are permutations that look random, and mixtures have their weights.
"""

import json
import os
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from jaxencoder.text.batches import Batches, interleave, mixture_weights, permute, prefetch
from jaxencoder.text.config import DataConfig
from jaxencoder.text.packing import Row
from jaxencoder.text.store import Store, Writer

LENGTH = 8


def make_store(folder, rows, first_id=0, labels=None, segments=2):
    """Row i holds the token id first_id + i at all positions."""
    folder.mkdir()
    writer = Writer(folder, LENGTH, 70000, False, labels)
    for i in range(rows):
        lengths = [LENGTH // segments] * segments
        writer.add(Row(np.full(LENGTH, first_id + i, np.uint32), lengths, None, [1] * segments if labels else []))
    writer.close({"pad_id": 0, "label_kind": labels, "labels": [], "tokenizer": "t", "token_counts": []})
    return Store(folder)


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store", 37)


def ids(*batches):
    return np.concatenate([batch["token_ids"][:, 0] for batch in batches]).tolist()


def test_an_epoch_is_every_row_once_and_the_next_is_another(store):
    batches = Batches([store], DataConfig(), 5, seed=3)
    stream = ids(*(batches.batch(step) for step in range(3 * 37)))
    epochs = [stream[i * 37 : (i + 1) * 37] for i in range(15)]
    assert all(sorted(epoch) == list(range(37)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 15
    assert (batches.rows_per_epoch, batches.steps_per_epoch, batches.tokens_per_epoch) == (37, 8, 37 * LENGTH)


def test_batch_is_a_pure_function(store, tmp_path):
    batches = Batches([store], DataConfig(), 6, seed=3)
    forwards = [ids(batches.batch(step)) for step in range(20)]
    again = Batches([Store(store.path)], DataConfig(), 6, seed=3)
    assert [ids(again.batch(step)) for step in reversed(range(20))] == forwards[::-1]
    assert [ids(Batches([store], DataConfig(), 6, seed=4).batch(step)) for step in range(20)] != forwards
    later = Batches([store], DataConfig(), 5, seed=3, skip=7 * 6)  # as if 7 batches of 6 were used
    assert ids(*(later.batch(step) for step in range(6))) == [row for batch in forwards[7:12] for row in batch]


def test_parts_of_hosts_make_the_batch(store):
    batches = Batches([store], DataConfig(), 8, seed=0)
    for step in (0, 7):
        global_batch = batches.batch(step)
        parts = [batches.batch(step, slice(i, i + 2)) for i in range(0, 8, 2)]
        for name in global_batch:
            np.testing.assert_array_equal(global_batch[name], np.concatenate([part[name] for part in parts]))


def test_evaluation_is_in_order_and_padded(store):
    batches = Batches([store], DataConfig(), 8, shuffle=False)
    assert batches.steps_per_epoch == 5
    got = [batches.batch(step) for step in range(5)]
    assert ids(*got)[:37] == list(range(37))
    assert not got[-1]["segment_ids"][5:].any() and got[-1]["segment_ids"][:5].all()


def test_stores_without_weights_are_one(tmp_path):
    stores = [make_store(tmp_path / "a", 10), make_store(tmp_path / "b", 30, first_id=100)]
    batches = Batches(stores, DataConfig(train=("a", "b")), 8)
    stream = ids(*(batches.batch(step) for step in range(10)))
    for epoch in (stream[:40], stream[40:]):
        assert sorted(epoch) == [*range(10), *range(100, 130)]


def test_mixture_holds_its_weights_everywhere(tmp_path):
    stores = [make_store(tmp_path / "a", 10), make_store(tmp_path / "b", 30, first_id=100)]
    batches = Batches(stores, DataConfig(train=("a", "b"), weights=(0.75, 0.25)), 8)
    stream = np.array(ids(*(batches.batch(step) for step in range(60))))
    small = stream < 100
    for start in range(0, 480, 8):
        assert abs(small[: start + 8].sum() - 0.75 * (start + 8)) <= 1
    drawn = stream[small]
    assert all(sorted(drawn[i : i + 10]) == list(range(10)) for i in range(0, 360, 10))
    drawn = stream[~small]
    assert all(sorted(drawn[i : i + 30]) == list(range(100, 130)) for i in range(0, 120, 30))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1, 0, 1, 1] * 10),  # by size
        ({"temperature": 1e9}, [0, 1] * 20),  # in turn
        ({"weights": (0.8, 0.2)}, [0, 0, 1, 0, 0] * 8),
    ],
    ids=str,
)
def test_batches_of_one_source(tmp_path, settings, expected) -> None:
    """The mixture chooses the source of each batch, and each source has epochs of its own."""
    stores = [make_store(tmp_path / "a", 10), make_store(tmp_path / "b", 30, first_id=100)]
    stores[1].number = 2  # another source between them has no rows
    batches = Batches(stores, DataConfig(train=("a", "b"), batch_sources="one", **settings), 8)
    rows = [batches.batch(step) for step in range(40)]
    assert [set(row["sources"]) for row in rows] == [{2 * source} for source in expected]
    for source, size in ((0, 10), (1, 30)):
        stream = ids(*(row for row, k in zip(rows, expected, strict=True) if k == source))
        epochs = [[x - 100 * source for x in stream[i : i + size]] for i in range(0, len(stream) - size, size)]
        assert len(epochs) > 1 and all(sorted(epoch) == list(range(size)) for epoch in epochs)
    for name, values in rows[3].items():
        hosts = [batches.batch(3, slice(i, i + 4))[name] for i in (0, 4)]
        np.testing.assert_array_equal(np.concatenate(hosts), values)
    later = Batches(stores, DataConfig(train=("a", "b"), batch_sources="one", **settings), 8, skip=3 * 8)
    assert ids(later.batch(0)) == ids(rows[3])
    held_out = Batches(stores[:1], DataConfig(batch_sources="one"), 8, shuffle=False)
    assert held_out.batch(1)["sources"].tolist() == [0, 0] + [-1] * 6


def test_labels_of_stores_with_different_numbers_of_segments(tmp_path):
    stores = [
        make_store(tmp_path / "a", 4, labels="class", segments=1),
        make_store(tmp_path / "b", 4, labels="class", segments=4),
    ]
    labels = np.concatenate([Batches(stores, DataConfig(), 8).batch(0)["labels"]])
    assert labels.shape == (8, 4) and labels.dtype == np.int32
    assert sorted((row == 1).sum() for row in labels) == [1] * 4 + [4] * 4
    assert ((labels == 1) | (labels == -1)).all()


def test_stores_that_do_not_go_together(tmp_path):
    stores = [make_store(tmp_path / "a", 4), make_store(tmp_path / "b", 4, labels="class")]
    with pytest.raises(ValueError, match="the stores differ in fields"):
        Batches(stores, DataConfig(), 8)
    with pytest.raises(ValueError, match="0 stores"):
        Batches([], DataConfig(), 8)


def on_one_device(ndim):
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])


def prefetching():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_prefetch_gives_the_batches_in_order(store):
    batches = Batches([store], DataConfig(), 4)
    got = list(prefetch(batches, range(3, 12), on_one_device))
    assert len(got) == 9 and isinstance(got[0]["token_ids"], jax.Array)
    for step, batch in zip(range(3, 12), got, strict=True):
        for name, values in batches.batch(step).items():
            np.testing.assert_array_equal(values, batch[name])
    assert not prefetching()


def test_prefetch_works_ahead_but_not_further_than_asked(store, monkeypatch):
    batches, asked = Batches([store], DataConfig(), 4), []
    monkeypatch.setattr(
        batches, "batch", lambda step, rows, inner=batches.batch: asked.append(step) or inner(step, rows)
    )
    stream = prefetch(batches, range(100), on_one_device, depth=2)
    next(stream)
    deadline = time.monotonic() + 10
    while len(asked) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert asked == [0, 1, 2, 3]  # one in use, two ready, one more
    stream.close()
    assert not prefetching()


def test_an_error_comes_at_its_turn(store, monkeypatch):
    batches = Batches([store], DataConfig(), 4)

    def broken(step, rows, inner=batches.batch):
        if step == 2:
            raise OSError("the disk is gone")
        return inner(step, rows)

    monkeypatch.setattr(batches, "batch", broken)
    seen = []
    with pytest.raises(OSError, match="the disk is gone"):
        for batch in prefetch(batches, range(5), on_one_device):
            seen.append(batch)
    assert len(seen) == 2 and not prefetching()


def run(code, *arguments, devices=1):
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "PYTHONPATH": os.getcwd(), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=env, timeout=120, check=True
    )


def test_interpreter_ends_with_an_open_prefetch(store):
    code = """
import sys, jax
from jaxencoder.text.batches import Batches, prefetch
from jaxencoder.text.config import DataConfig
from jaxencoder.text.store import Store
stream = prefetch(Batches([Store(sys.argv[1])], DataConfig(), 4), range(10**9),
                  lambda ndim: jax.sharding.SingleDeviceSharding(jax.devices()[0]))
next(stream)
sys.keep = stream
print("left open")
"""
    done = run(code, store.path)
    assert done.stdout == "left open\n" and done.stderr == ""


def test_eight_devices_hold_the_same_batch(store):
    code = """
import json, sys, jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxencoder.text.batches import Batches, prefetch
from jaxencoder.text.config import DataConfig
from jaxencoder.text.store import Store
mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "context"), axis_types=(AxisType.Auto,) * 3)
rows = ("data", "fsdp")
def sharding(ndim):
    return NamedSharding(mesh, P(rows, "context") if ndim == 2 else P(rows))
batches = Batches([Store(sys.argv[1])], DataConfig(), 8, seed=1)
batch = next(prefetch(batches, [5], sharding))
shapes = sorted({shard.data.shape for shard in batch["token_ids"].addressable_shards})
print(json.dumps([shapes, batch["token_ids"].tolist(), batch["positions"].tolist()]))
"""
    shapes, tokens, positions = json.loads(run(code, store.path, devices=8).stdout)
    want = Batches([store], DataConfig(), 8, seed=1).batch(5)
    assert shapes == [[2, LENGTH // 2]]
    assert tokens == want["token_ids"].tolist() and positions == want["positions"].tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 17, 64, 65, 1000])
def test_permutations(size):
    seen = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (2**63, 10**6)):
        order = permute(np.arange(size), size, seed, np.full(size, epoch))
        assert sorted(order.tolist()) == list(range(size))
        seen.append(tuple(order.tolist()))
    if size > 16:
        assert len(set(seen)) == 4


def test_permutations_look_random():
    """Every row is equally likely at every position, and neighbors are separated."""
    size, epochs = 10, 4000
    positions, numbers = np.tile(np.arange(size), epochs), np.repeat(np.arange(epochs), size)
    orders = permute(positions, size, 5, numbers).reshape(epochs, size)
    table = np.stack([(orders == value).sum(0) for value in range(size)])
    # Chi-squared with 81 degrees of freedom is below 130 in 99.96 of 100 cases.
    assert ((table - epochs / size) ** 2 / (epochs / size)).sum() < 130
    big = permute(np.arange(10000), 10000, 5, np.zeros(10000, int))
    assert abs(np.corrcoef(big[:-1], big[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(np.arange(10000), big)[0, 1]) < 0.05


@pytest.mark.parametrize("weights", [[1.0], [0.5, 0.5], [0.9999999, 1e-7], [0.2, 0.3, 0.5], [0.0, 1.0], [1 / 3] * 3])
def test_interleaving(weights):
    weights = np.array(weights) / sum(weights)
    sources, ranks, counts = interleave(weights)
    assert len(sources) == counts.sum() <= 1 << 17
    assert ((counts > 0) == (weights > 0)).all()
    np.testing.assert_allclose(counts / counts.sum(), weights, atol=1e-4)
    for k in range(len(weights)):
        assert ranks[sources == k].tolist() == list(range(counts[k]))
        share = np.cumsum(sources == k) - np.arange(1, len(sources) + 1) * counts[k] / counts.sum()
        assert np.abs(share).max() < len(weights)


@pytest.mark.parametrize(
    ("sizes", "weights", "temperature", "expected"),
    [
        ([1, 3], (), 1.0, [0.25, 0.75]),
        ([1, 16], (), 2.0, [0.2, 0.8]),
        ([1, 16], (), float("inf"), [0.5, 0.5]),
        ([1, 1e300], (), 0.01, [0, 1]),
        ([10, 1, 5], (1, 3, 0), 1.0, [0.25, 0.75, 0]),
    ],
)
def test_mixture_weights(sizes, weights, temperature, expected) -> None:
    probabilities = mixture_weights(np.array(sizes), weights, temperature)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-12, atol=1e-300)
    assert probabilities.dtype == np.float64


def test_a_mixture_has_weights_or_a_temperature() -> None:
    with pytest.raises(ValueError, match=r"data\.temperature 2\.0 does not apply to data\.weights \(1, 3\)"):
        mixture_weights(np.array([1, 2]), (1, 3), 2.0)
