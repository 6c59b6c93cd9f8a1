"""The update of a phase, compiled for devices that need not be attached."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.extend import core
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxencoder.config import RunConfig
from jaxencoder.describe.format import format_memory
from jaxencoder.describe.shapes import batch_shapes, build_objective
from jaxencoder.sharding import batch_sharding, shardings
from jaxencoder.training.optimizers import make_optimizer
from jaxencoder.training.step import init_state, train_step


class CompiledUpdate(NamedTuple):
    """A compiled update.

    Attributes:
        arguments, temporaries, peak: bytes on a device; the peak has what is alive at the same time.
        text: the program of a device, in XLA's text form.
        jaxpr: what was compiled.
    """

    arguments: int
    temporaries: int
    peak: int
    text: str
    jaxpr: core.Jaxpr


class DoesNotFit(Exception):
    """The compiler finds no room for the program; `bytes` are what it needs, 0 if unknown."""

    def __init__(self, bytes: int):
        super().__init__(f"the program needs {format_memory(bytes) if bytes else 'more memory than a device has'}")
        self.bytes = bytes


def compile_update(config: RunConfig, mesh: Mesh) -> CompiledUpdate:
    """Compile an update of a run without phases, as `jaxencoder train` makes it, for a mesh of described devices.

    Raises:
        DoesNotFit: the program needs more memory than a device has.
    """
    settings = config.training
    objective = build_objective(config)
    optimizer = make_optimizer(config.optimizer, settings.steps, config.phase_learning_rates, config.trainable_patterns)
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(lambda key: init_state(objective, optimizer, key, ema=settings.ema_decay > 0), key)
    placement, replicated = shardings(shapes, mesh), NamedSharding(mesh, PartitionSpec())

    def update(state, batch, key):
        return train_step(
            objective, optimizer, state, batch, key, settings.steps, settings.accumulation, settings.ema_decay
        )

    def placed(shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    rows, length = settings.batch_size, config.data.row_length
    batch = {
        name: placed(x, batch_sharding(mesh, 2 if x.shape[1:2] == (length,) else 1))
        for name, x in batch_shapes(config, rows, length).items()
    }
    step = jax.jit(update, donate_argnums=0, out_shardings=(placement, replicated))
    with jax.set_mesh(mesh):
        traced = step.trace(jax.tree.map(placed, shapes, placement), batch, placed(key, replicated))
        lowered = traced.lower()
    try:
        with _without_cache():  # which cannot read programs for devices that are not attached
            program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        # Kernels may run out of a chip's fast memory too, which is a fault of theirs.
        if "RESOURCE_EXHAUSTED" not in str(error) or "vmem" in str(error):
            raise
        raise DoesNotFit(_needed(str(error))) from None
    sizes: Any = program.memory_analysis()
    memory = sizes.argument_size_in_bytes, sizes.temp_size_in_bytes, sizes.peak_memory_in_bytes
    return CompiledUpdate(*memory, str(program.as_text()), traced.jaxpr.jaxpr)


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def _needed(message: str) -> int:
    """The bytes in "Used 20.12G of 15.75G hbm" or "temporaries (34.79G) exceeds available HBM"; 0 if there are none."""
    if not (used := re.search(r"([\d.]+)([KMGT])(?: of|\) exceeds)", message)):
        return 0
    return int(float(used[1]) * 1024 ** ("KMGT".index(used[2]) + 1))
