"""Compile the recipes for TPUs and GPUs, without one, and check their kernels and memory.

    export PYTHONPATH=compilers    # the versions that jax[tpu] and jax[cuda12] require
    pip install --no-deps --target compilers 'libtpu==0.0.42.*' jax-cuda12-pjrt==0.10.2 jax-cuda12-plugin==0.10.2
    python benchmarks/accelerators.py                      # all, about 30 minutes on 2 cores; no TPU and no GPU
    python benchmarks/accelerators.py --devices v5e:4x4 H100 --cases modernbert_base/8192

Each case is one phase of a recipe: the whole update (loss, gradients, optimizer) for one GPU or the chips of a slice,
with parameters and optimizer sharded over all of them (`mesh.fsdp`), compiled by the compiler of such a machine. There
are no data and no weights: arrays are shapes with shardings. Bytes are the compiler's count of a device's memory: the
arguments, all temporaries, which do not exist at the same time, and the peak. A kernel counts once per call in the
program: layers in a scan share their calls.

The exit code is 1 if a program lacks an expected kernel or does not fit.
"""

import argparse
import collections
import dataclasses
import math
import os
import re
import sys
import time
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from jax.experimental import topologies

from jaxencoder.config import RunConfig
from jaxencoder.config_io import load
from jaxencoder.describe.plan.devices import GIB, TPUS, describe_topology
from jaxencoder.describe.plan.update import DoesNotFit, compile_update
from jaxencoder.sharding import make_mesh


class Gpu(NamedTuple):
    """An NVIDIA GPU, from its data sheet and the table of compute capabilities in the CUDA C++ Programming Guide.

    Attributes:
        shared: KiB of shared memory per block.
        units: float32 units per multiprocessor.
        memory: GiB. bandwidth: GB/s of the memory. cache: MiB of L2. clock: GHz.
    """

    kind: str
    capability: tuple[int, int]
    multiprocessors: int
    shared: int
    units: int
    threads: int
    memory: int
    bandwidth: int
    cache: int
    clock: float


GPUS = {
    "T4": Gpu("Tesla T4", (7, 5), 40, 64, 64, 1024, 15, 320, 4, 1.59),
    "A100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 163, 64, 2048, 79, 2039, 40, 1.41),
    "L4": Gpu("NVIDIA L4", (8, 9), 58, 99, 128, 1536, 22, 300, 48, 2.04),
    "H100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 227, 128, 2048, 79, 3350, 50, 1.98),
}
AMPERE = (8, 0)  # the first capability for which XLA compiles Triton


class Case(NamedTuple):
    """One phase of a recipe.

    Attributes:
        rows: per device in one microbatch; the others of a batch follow (`training.accumulation`).
        tpu, gpu: parts of the names of kernels that the program must contain.
    """

    recipe: str
    phase: int
    rows: int
    remat: str
    tpu: tuple[str, ...]
    gpu: tuple[str, ...] = ()


LOCAL = ("single_pass_local_forward", "single_pass_local_backward")
SHORT = (*LOCAL, "single_pass_global_forward", "single_pass_global_backward")
LONG = (*LOCAL, "splash_mha_fwd", "splash_mha_dkv", "splash_mha_dq")
MHA = ("mha_forward", "mha_backward")
CASES = {
    "modernbert_base/1024": Case("modernbert_base", 5, 16, "dots", SHORT, MHA),
    "modernbert_base/8192": Case("modernbert_base", 6, 2, "dots", LONG, MHA),
    "deberta_v3_base/512": Case("deberta_v3_base", 0, 32, "dots", ("tiled_forward", "tiled_backward")),
}


def devices(name: str) -> list[jax.Device]:
    """Descriptions of a GPU in `GPUS`, or of the chips of a TPU slice such as v5e:4x4."""
    if name not in GPUS:
        return list(describe_topology(name).devices)
    gpu = GPUS[name]
    text = f"""
        gpu_device_info {{
            cuda_compute_capability {{ major: {gpu.capability[0]} minor: {gpu.capability[1]} }}
            core_count: {gpu.multiprocessors} fpus_per_core: {gpu.units} threads_per_core_limit: {gpu.threads}
            shared_memory_per_block_optin: {gpu.shared << 10} shared_memory_per_core: {gpu.shared + 1 << 10}
            shared_memory_per_block: {48 << 10} threads_per_warp: 32 threads_per_block_limit: 1024
            registers_per_core_limit: 65536 registers_per_block_limit: 65536
            block_dim_limit_x: {2**31 - 1} block_dim_limit_y: 65535 block_dim_limit_z: 65535
            device_memory_size: {gpu.memory * GIB} memory_bandwidth: {gpu.bandwidth * 10**9}
            l2_cache_size: {gpu.cache << 20} clock_rate_ghz: {gpu.clock}
        }}
        platform_name: "CUDA" device_description_str: "{gpu.kind}" dnn_version_info {{ major: 9 minor: 1 }}"""
    topology = topologies.get_topology_desc(platform="cuda", topology_name=name, topology="1x1x1", target_config=text)
    return list(topology.devices)


def device_memory(name: str) -> int:
    """Bytes of a device."""
    return GPUS[name].memory * GIB if name in GPUS else TPUS[name.partition(":")[0]].memory


def expected_kernels(name: str, case: Case) -> tuple[str, ...]:
    """The kernels that a program for a device must contain."""
    if name not in GPUS:
        return case.tpu
    return case.gpu if GPUS[name].capability >= AMPERE else ()


def case_config(case: Case, count: int) -> RunConfig:
    """The configuration of the phase alone, with microbatches of `rows` per device."""
    config = load(case.recipe, ["--mesh.fsdp", str(count), "--compute.remat", case.remat]).phase_configs[case.phase]
    size, microbatch = config.training.batch_size, case.rows * count
    if size % microbatch:
        raise ValueError(f"{case.recipe} has batches of {size} rows, no multiple of {case.rows} on {count} device(s).")
    training = dataclasses.replace(config.training, accumulation=size // microbatch)
    model = dataclasses.replace(config.model, vocab_size=config.tokenizer.vocab_size)
    return dataclasses.replace(config, training=training, model=model)


def count_kernels(text: str) -> collections.Counter:
    """Calls of Pallas kernels by name in the text of a compiled program."""
    tpu_names = re.findall(r"%([\w-]+)[\w.]* = [^\n]*custom_call_target=\"tpu_custom_call\"", text)
    gpu_names = re.findall(r"custom_call_target=\"__gpu\$xla\.gpu\.triton\"[^\n]* name = \"(\w+)\"", text)
    return collections.Counter(tpu_names + gpu_names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--devices", nargs="+", default=["v5e:4x4", "v6e:4x4", *GPUS])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    args = parser.parse_args()
    print("| device | recipe | T | rows | GiB: arguments | temporaries | peak | fits | kernels | compilation s |")
    print("|---|---|---:|---:|---:|---:|---:|---|---|---:|", flush=True)
    all_passed = True
    for device in args.devices:
        described = devices(device)
        for name in args.cases:
            case = CASES[name]
            config = case_config(case, len(described))
            start, kernels, memory, peak = time.perf_counter(), collections.Counter(), ["?", "?", "too many"], math.inf
            try:
                update = compile_update(config, make_mesh(config.mesh, described))
            except DoesNotFit as error:
                print(error, file=sys.stderr)
            else:
                kernels, peak = count_kernels(update.text), update.peak
                memory = [f"{size / GIB:.1f}" for size in (update.arguments, update.temporaries, peak)]
            seconds, fits = time.perf_counter() - start, peak <= device_memory(device)
            missing = [
                kernel for kernel in expected_kernels(device, case) if not any(kernel in name for name in kernels)
            ]
            all_passed &= fits and not missing
            calls = [f"{count} x {kernel}" for kernel, count in sorted(kernels.items())]
            calls += [f"no {kernel}" for kernel in missing]
            cells = [device, case.recipe, config.data.row_length, case.rows, *memory, "yes" if fits else "no"]
            cells += [", ".join(calls) or "none", f"{seconds:.0f}"]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return 0 if all_passed else 1


if __name__ == "__main__":
    sys.exit(main())
