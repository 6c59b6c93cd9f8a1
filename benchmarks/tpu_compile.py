"""Whether the recipes compile for TPU slices, with the kernels they should have and in the memory that there is.

    pip install --no-deps 'libtpu==0.0.42.*'        # the compiler; the one that jax[tpu] names
    python benchmarks/tpu_compile.py                # all, about 10 minutes on 2 cores; no TPU
    python benchmarks/tpu_compile.py --topologies v5e:4x4 --cases modernbert_base/8192

Each case is one phase of a recipe: its whole update (loss, gradients, optimiser) for the chips of a slice, parameters
and optimiser split over all of them (`mesh.fsdp`), compiled by the compiler that a TPU would use. There are no data and
no weights: arrays are shapes with places. Bytes are the compiler's account of a chip's memory: of the arguments, of all
temporaries, which need not be there at the same time, and the most that is taken at any time. A kernel counts once for
each place in the program that calls it: layers that are scanned over share theirs.

The exit code is 1 if a program lacks a kernel that it should have, or does not fit.
"""

import argparse
import collections
import dataclasses
import os
import re
import sys
import time
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # of a machine that is none
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # compilers do not compete for a chip

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from jaxencoder.config import RunConfig, load
from jaxencoder.sharding import P, batch_sharding, make_mesh, shardings
from jaxencoder.training.optim import make_optimizer
from jaxencoder.training.step import init_state, train_step

GIB = 2**30
MEMORY = {"v5e": 16 * GIB, "v6e": 32 * GIB}  # of a chip


class Case(NamedTuple):
    """One phase of a recipe.

    Attributes:
        rows: of a chip, whose gradients are taken at once; the rest of a batch follows (`training.accumulation`).
        kernels: what must be in the names of kernels in the program.
    """

    recipe: str
    phase: int
    rows: int
    remat: str
    kernels: tuple[str, ...]


SPLASH = ("splash_mha_fwd", "splash_mha_dkv", "splash_mha_dq")
CASES = {
    "modernbert_base/1024": Case("modernbert_base", 5, 16, "dots", SPLASH),
    "modernbert_base/8192": Case("modernbert_base", 6, 2, "dots", SPLASH),
    "deberta_v3_base/512": Case("deberta_v3_base", 0, 32, "dots", ("tiled_forward", "tiled_backward")),
}


class Vocabulary(NamedTuple):
    """Ids in the order of BERT's; an update's program depends on their number alone."""

    vocab_size: int
    mask_id: int = 4
    special_ids: tuple[int, ...] = (0, 1, 2, 3, 4)


class Program(NamedTuple):
    """What was compiled.

    Attributes:
        memory: of a chip, in bytes: arguments, temporaries, and the most at any time; None where the compiler gave up.
        kernels: calls by name.
        seconds: of tracing and compiling.
    """

    memory: tuple[int, int, int] | None
    kernels: collections.Counter
    seconds: float


def configured(case: Case, chips: int) -> RunConfig:
    """The phase as a run of its own, cut into parts of `rows` a chip."""
    config = load(case.recipe, ["--mesh.fsdp", str(chips), "--compute.remat", case.remat]).phase_configs[case.phase]
    size, at_once = config.training.batch_size, case.rows * chips
    if size % at_once:
        raise ValueError(f"{case.recipe} has batches of {size} rows, no multiple of {case.rows} on {chips} chips.")
    training = dataclasses.replace(config.training, accumulation=size // at_once)
    model = dataclasses.replace(config.model, vocab_size=config.tokenizer.vocab_size)
    return dataclasses.replace(config, training=training, model=model)


def compiled(config: RunConfig, mesh: Mesh) -> Program:
    """The update of `jaxencoder train` for the devices of a mesh, none of which need be there."""
    settings = config.training
    objective = config.build(Vocabulary(config.model.vocab_size))
    optimizer = make_optimizer(config.optimizer, settings.steps, config.peaks, config.learning)
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(lambda key: init_state(objective, optimizer, key, ema=settings.ema_decay > 0), key)
    places = shardings(shapes, mesh)
    everywhere = NamedSharding(mesh, P())

    def update(state, batch, key):
        return train_step(
            objective, optimizer, state, batch, key, settings.steps, settings.accumulation, settings.ema_decay
        )

    def placed(shape, place):
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place)

    B, T = settings.batch_size, config.data.row_length
    batch = {
        name: jax.ShapeDtypeStruct((B, T), jnp.int32, sharding=batch_sharding(mesh, 2))
        for name in ("token_ids", "segment_ids", "positions")
    }
    batch["row_ids"] = jax.ShapeDtypeStruct((B,), jnp.uint32, sharding=batch_sharding(mesh, 1))
    step = jax.jit(update, donate_argnums=0, out_shardings=(places, everywhere))
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        lowered = step.lower(jax.tree.map(placed, shapes, places), batch, placed(key, everywhere))
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(str(error)[:2000], file=sys.stderr)
        return Program(None, collections.Counter(), time.perf_counter() - start)
    seconds = time.perf_counter() - start
    sizes = program.memory_analysis()
    memory = sizes.argument_size_in_bytes, sizes.temp_size_in_bytes, sizes.peak_memory_in_bytes
    return Program(memory, kernels(program.as_text()), seconds)


def kernels(text: str) -> collections.Counter:
    """Calls of Pallas kernels in a compiled program's text, by the kernel's name."""
    calls = re.findall(r"%([\w-]+)[\w.]* = [^\n]*custom_call_target=\"tpu_custom_call\"", text)
    return collections.Counter(calls)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--topologies", nargs="+", default=["v5e:4x4", "v6e:4x4"])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    args = parser.parse_args()
    print(
        "| slice | recipe | T | rows a chip | GiB: arguments | temporaries | at most | fits | kernels | compiled in s |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---|---|---:|", flush=True)
    good = True
    for topology in args.topologies:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
        for name in args.cases:
            case = CASES[name]
            config = configured(case, len(devices))
            found = compiled(config, make_mesh(config.mesh, devices))
            fits = found.memory is not None and found.memory[-1] <= MEMORY[topology.partition(":")[0]]
            missing = [kernel for kernel in case.kernels if not any(kernel in called for called in found.kernels)]
            good &= fits and not missing
            called = [f"{count} x {kernel}" for kernel, count in sorted(found.kernels.items())]
            called += [f"no {kernel}" for kernel in missing]
            memory = [f"{size / GIB:.1f}" for size in found.memory] if found.memory else ["?", "?", "too many"]
            cells = [topology, case.recipe, config.data.row_length, case.rows, *memory, "yes" if fits else "no"]
            cells += [", ".join(called), f"{found.seconds:.0f}"]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
