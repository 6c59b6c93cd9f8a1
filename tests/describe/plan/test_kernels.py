"""Kernels of a program: how often they run, the FLOPs of their products, and the time these take."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from jaxencoder.describe.plan.devices import TPUS, Topology
from jaxencoder.describe.plan.kernels import kernel_calls, kernel_seconds
from jaxencoder.kernels.inputs import AttentionInputs, AttentionOptions
from jaxencoder.kernels.splash import splash

V5E = Topology("v5e:2x2", TPUS["v5e"], ())


def attention(window: int, T: int):
    """Of 3 rows in a scan of 5 layers, with 2 heads of 64."""
    x, ids = jax.ShapeDtypeStruct((3, T, 2, 64), jnp.bfloat16), jax.ShapeDtypeStruct((3, T), jnp.int32)

    def run(x, ids):
        def layer(x, _):
            return splash(AttentionInputs(x, x, x, None, ids, ids, 0, None), AttentionOptions(window)), None

        return jax.lax.scan(layer, x, length=5)[0]

    return jax.make_jaxpr(run)(x, ids).jaxpr


def test_calls_in_loops():
    (call,) = kernel_calls(attention(0, 1024))
    assert "splash_mha_fwd" in call.name and not call.masks
    assert (call.count, call.flops) == (5, 5 * 3 * 2 * 4 * 1024**2 * 64)


def test_a_window_computes_fewer_products_more_slowly():
    (whole,), (local,) = kernel_calls(attention(0, 4096)), kernel_calls(attention(64, 4096))
    assert local.masks and local.flops <= whole.flops / 4
    share_whole, share_local = (
        call.flops / call.count / seconds / V5E.chip.peak
        for call, jaxpr in ((whole, attention(0, 4096)), (local, attention(64, 4096)))
        for seconds in kernel_seconds(jaxpr, V5E).values()
    )
    assert share_whole == pytest.approx(0.32) and share_local == pytest.approx(0.16)


def test_kernels_and_chips_without_a_known_share():
    def double(x_ref, y_ref):
        y_ref[...] = x_ref[...] @ x_ref[...]

    shape = jax.ShapeDtypeStruct((128, 128), jnp.float32)
    jaxpr = jax.make_jaxpr(pl.pallas_call(double, out_shape=shape, name="double", interpret=True))(shape).jaxpr
    for name in ("v5e", "v4"):
        place = Topology(f"{name}:2x2", TPUS[name], ())
        assert kernel_seconds(jaxpr, place) == {"double": pytest.approx(2 * 128**3 / (0.15 * place.chip.peak))}


def test_calls_on_one_device():
    """A kernel in `shard_map` runs once on each device."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])

    def copy(x_ref, y_ref):
        y_ref[...] = x_ref[...]

    kernel = pl.pallas_call(copy, out_shape=jax.ShapeDtypeStruct((8,), jnp.float32), name="copy", interpret=True)
    spec = jax.P("data")
    run = jax.shard_map(kernel, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    assert [call.count for call in kernel_calls(jax.make_jaxpr(run)(jnp.ones(8)).jaxpr)] == [1]
