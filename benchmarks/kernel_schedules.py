"""Cycles of the attention kernels on TPUs, by the compiler's own schedule of their instructions; needs no TPU.

    pip install 'jax[tpu]'                              # libtpu is the compiler
    python benchmarks/kernel_schedules.py               # all kernels on v5e, v5p and v6e, about 10 minutes on 2 cores

A TPU issues one bundle of instructions a cycle, so that a kernel takes about as many cycles as its schedule has
bundles, times the iterations of its loops. Waiting for memory is not in it, and a branch that is skipped at run time
counts as taken. The share is that of the chip's peak which the products that the kernel computes reach in this time;
`jaxencoder plan` takes it for kernels, of which the compiler estimates no time in a program.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CASES = {  # name: backend, tokens, window, size of a head, what else
    "global, 512 tokens": ("single_pass", 512, 0, 64, ""),
    "global, 1,024 tokens, rotary": ("single_pass", 1024, 0, 64, "rotary"),
    "window 64, 1,024 tokens, rotary": ("single_pass", 1024, 64, 64, "rotary"),
    "window 64, 8,192 tokens, rotary": ("single_pass", 8192, 64, 64, "rotary"),
    "global, 1,024 tokens, splash": ("splash", 1024, 0, 64, ""),
    "global, 8,192 tokens, splash": ("splash", 8192, 0, 64, ""),
    "global, 8,192 tokens, heads of 128, splash": ("splash", 8192, 0, 128, ""),
    "window 64, 1,024 tokens, splash": ("splash", 1024, 64, 64, ""),
    "window 64, 8,192 tokens, splash": ("splash", 8192, 64, 64, ""),
    "terms by distance, 512 tokens": ("tiled", 512, 0, 64, "distances"),
    "terms by distance, 2,048 tokens": ("tiled", 2048, 0, 64, "distances"),
}
HEADS = 12


def compile_case(topology: str, case: str) -> None:
    """Compile attention and its gradients; the compiler writes its schedules as LIBTPU_INIT_ARGS says."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    from jaxencoder.describe.plan.kernels import kernel_calls
    from jaxencoder.kernels.inputs import AttentionInputs, AttentionOptions
    from jaxencoder.kernels.relative import RelativeTerms
    from jaxencoder.kernels.single_pass import single_pass
    from jaxencoder.kernels.splash import splash
    from jaxencoder.kernels.tiled import tiled

    backend, T, window, H, extra = CASES[case]
    attend = {"single_pass": single_pass, "splash": splash, "tiled": tiled}[backend]
    chip = SingleDeviceSharding(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0])

    def shape(*sizes: int, dtype: str = "bfloat16") -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=chip)

    def loss(q, k, v, relative, ids, rotary):
        inputs = AttentionInputs(q, k, v, relative, ids, ids, rotary=rotary)
        options = AttentionOptions(window, scale=H**-0.5 if attend is single_pass else 0.0)
        return attend(inputs, options).astype(jnp.float32).sum()

    table, x = shape(2 * T - 1, HEADS, H), shape(1, T, HEADS, H)
    bias, angles = shape(2 * T - 1, HEADS, dtype="float32"), shape(1, T, 1, H // 2, dtype="float32")
    relative = RelativeTerms(table, table, bias) if extra == "distances" else None
    rotary = (angles, angles) if extra == "rotary" else None
    differentiated = jax.value_and_grad(loss, range(4 if relative else 3))
    traced = jax.jit(differentiated).trace(x, x, x, relative, shape(1, T, dtype="int32"), rotary)
    traced.lower().compile()
    for call in kernel_calls(traced.jaxpr.jaxpr):
        print("kernel", call.name, call.flops / call.count)


def schedules(topology: str, case: str) -> dict[str, tuple[float, int]]:
    """Kernel -> FLOPs of its products, and cycles."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        environment = os.environ | {
            "LIBTPU_INIT_ARGS": arguments, "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "PYTHONPATH": str(ROOT), "JAX_ENABLE_COMPILATION_CACHE": "false",
        }  # fmt: skip
        command = [sys.executable, __file__, "--compile", topology, case]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        flops = {name: float(number) for name, number in re.findall(r"^kernel (\S+) (\S+)$", done.stdout, re.MULTILINE)}
        files = [path for path in Path(folder).iterdir() if re.search(r"\d-final_bundles\.txt$", path.name)]
        named = {name: [path for path in files if name in path.name] for name in flops}
        return {name: (flops[name], cycles(paths[0].read_text())) for name, paths in named.items()}


def cycles(text: str) -> int:
    """Cycles of a schedule: one for each bundle, times the iterations of the loops that it is in.

    The loop over a kernel's grid has two more iterations than the grid has points: before the first block is read and
    after the last one is written, which compute nothing.
    """
    loops: list[list[int]] = [[0, 1]]  # bundles, iterations
    closes = False
    for line in text.splitlines():
        if not (bundle := re.match(r"\s*0x[0-9a-f]+\s*(\w\w)?:", line)):
            continue
        if bundle[1] == "LB":
            loops.append([0, 1])
        loops[-1][0] += 1
        if limit := re.search(r", (\d+) /\* loop exit test", line):
            loops[-1][1], closes = max(int(limit[1]) - (2 if len(loops) == 2 else 0), 1), True
        if closes and "sbr.rel" in line and len(loops) > 1:
            bundles, iterations = loops.pop()
            loops[-1][0] += bundles * iterations
            closes = False
    return sum(bundles * iterations for bundles, iterations in loops)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topologies", nargs="+", default=["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--compile", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.compile:
        compile_case(*args.compile)
        return
    sys.path.insert(0, str(ROOT))
    from jaxencoder.describe.plan.devices import TPUS

    print("| device | attention | kernel | cycles | FLOPs a cycle | share of the peak |")
    print("|---|---|---|---:|---:|---:|", flush=True)
    for topology in args.topologies:
        chip = TPUS[topology.partition(":")[0]]
        for case in args.cases:
            for name, (flops, number) in schedules(topology, case).items():
                share = flops / number / (chip.peak / chip.clock)
                print(
                    f"| {topology} | {case} | {name} | {number:,} | {flops / number:,.0f} | {share:.0%} |", flush=True
                )


if __name__ == "__main__":
    main()
