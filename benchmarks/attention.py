"""Attention in long rows, forward and backward: its growth, and against Hugging Face transformers in torch.

    python benchmarks/attention.py                  # all three parts, about 20 minutes on 2 cores
    python benchmarks/attention.py --parts growth --lengths 512 1024 2048 --rounds 3
    python benchmarks/attention.py --parts modernbert --rows 2

growth: one call of `kernels.attention` with its gradients, 4 heads of 64, float32: with a window of 64 tokens to either
side, without a window, and with DeBERTa's relative positions, by each backend. Time is the median of all runs; the
cases alternate in rounds. The exponent of the length is fitted in logarithms. Memory is XLA's count of temporaries (see
`training.program`), also relative to one array of scores, 4 bytes per pair of tokens and head: a backend that never
holds such an array falls below 1 as rows grow.

deberta, modernbert: a model with layers of 256, 4 heads and a vocabulary of 1,000. transformers creates it, jaxencoder
loads its weights, and first the outputs of both are compared. A step computes the encoder's output and the gradients of
all weights for a weighted sum of it, in float32, without an optimizer. DeBERTa has the published options of v3 (256
buckets, both terms, shared projections), ModernBERT alternates one global and two local layers. Each side is a process
that sleeps while the others work; blocks of steps alternate, after one to compile and warm up, and the result is the
median of the blocks. torch runs eagerly, with each number of threads and each of its attention implementations; the
table has a ratio for each.

Memory of a step is the increase of the process's resident memory during its second step, after freed memory has been
returned, for both sides. For jaxencoder the table also has XLA's count.

Run it on an idle machine, see train_step.py.
"""

import argparse
import ctypes
import functools
import gc
import multiprocessing
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from train_step import Side, line, machine, measure  # sets JAX_PLATFORMS

from jaxencoder.checkpoints.transformers import open_transformers
from jaxencoder.kernels.attention import attention
from jaxencoder.kernels.inputs import AttentionOptions
from jaxencoder.kernels.relative import RelativeTerms
from jaxencoder.model.config import ComputeConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.training.memory import keep_freed_memory
from jaxencoder.training.program import program

HEADS, HEAD_SIZE, WINDOW = 4, 64, 64
CASES = {  # window, backend, relative positions
    "local, banded": (WINDOW, "banded", False),
    "local, dense": (WINDOW, "dense", False),
    "global, chunked": (0, "chunked", False),
    "global, dense": (0, "dense", False),
    "global, relative positions, chunked": (0, "chunked", True),
    "global, relative positions, dense": (0, "dense", True),
}
VOCABULARY = 1000
TOLERANCE = 1e-4  # between the outputs of both sides, which are about 1
SIZES = dict(vocab_size=VOCABULARY, hidden_size=HEADS * HEAD_SIZE, num_attention_heads=HEADS, pad_token_id=0)


class Case(NamedTuple):
    """A compiled call of attention with its gradients."""

    run: Callable[[], None]
    temporaries: int


def attention_case(window: int, backend: str, with_relative: bool, length: int) -> Case:
    segment_ids = jnp.ones((1, length), jnp.int32)

    @jax.jit
    def gradients(qkv, tables, cotangent):
        def attend(qkv, tables):
            relative = RelativeTerms(*tables) if with_relative else None
            options = AttentionOptions(window, backend=backend)
            return attention(*qkv, segment_ids, relative=relative, options=options)

        return jax.vjp(attend, qkv, tables)[1](cotangent)

    rng = np.random.default_rng(0)

    def random(*shape: int, scale: float = 1.0) -> jax.Array:
        return jnp.asarray(scale * rng.standard_normal((*shape, HEADS, HEAD_SIZE), np.float32))

    # Scores of about 1: larger ones give subnormal weights, which a processor handles many times slower.
    tables = tuple(random(2 * length - 1, scale=HEAD_SIZE**-0.5) for _ in range(2 * with_relative))
    qkv = random(1, length, scale=HEAD_SIZE**-0.5), random(1, length), random(1, length)
    inputs = qkv, tables, random(1, length)
    return Case(lambda: jax.block_until_ready(gradients(*inputs)), program(gradients, *inputs).temporaries)


def growth(args: argparse.Namespace) -> None:
    """Time and temporary memory of each backend at each length, and the exponents of both."""
    keep_freed_memory()  # as the command line does
    cases = {(name, n): attention_case(*settings, n) for name, settings in CASES.items() for n in args.lengths}
    times: dict[tuple[str, int], list[float]] = {}
    for number in range(args.rounds + 1):
        for case, (run, temporaries) in cases.items():
            if temporaries > args.memory * 2**30:
                continue
            if not number:  # compiles
                run()
                continue
            end = time.perf_counter() + args.seconds
            while (start := time.perf_counter()) < end:
                run()
                times.setdefault(case, []).append(time.perf_counter() - start)
    line("attention", "tokens", "ms", "tokens/s", "temporaries MiB", "relative to scores")
    line("---", *["---:"] * 5)
    for (name, length), case in cases.items():
        seconds = statistics.median(times.get((name, length), [0.0]))
        speed = (f"{1e3 * seconds:.1f}", f"{length / seconds:,.0f}") if seconds else ("not run", "")
        ratio = case.temporaries / (4 * length**2 * HEADS)
        line(name, length, *speed, f"{case.temporaries / 2**20:.1f}", ratio)
    print()
    line("attention", "exponent of time", "exponent of temporaries")
    line("---", *["---:"] * 2)
    for name in CASES:
        medians = {length: statistics.median(times[name, length]) for length in args.lengths if (name, length) in times}
        temporaries = [cases[name, length].temporaries for length in args.lengths]
        if len(medians) > 1:
            line(name, exponent(list(medians), list(medians.values())), exponent(args.lengths, temporaries))


def exponent(lengths: list[int], values: list[float]) -> float:
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])


def torch_config(family: str, layers: int, length: int, dropout: float) -> transformers.PretrainedConfig:
    sizes = SIZES | dict(num_hidden_layers=layers, max_position_embeddings=length)
    if family == "deberta":
        return transformers.DebertaV2Config(
            **sizes,
            **dict(intermediate_size=1024, relative_attention=True, position_buckets=256, norm_rel_ebd="layer_norm"),
            **dict(share_att_key=True, pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0),
            **dict(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, max_relative_positions=-1),
        )
    return transformers.ModernBertConfig(
        **sizes,
        **dict(intermediate_size=384, attention_dropout=dropout, embedding_dropout=dropout, mlp_dropout=dropout),
        **dict(global_attn_every_n_layers=3, local_attention=2 * WINDOW),
        **dict(cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2),
    )


def random_ids(rows: int, length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(3, VOCABULARY, (rows, length))


def our_step(folder: str, rows: int, length: int, backend: str) -> tuple[Callable, tuple]:
    """The jitted gradients, and their arguments without the key."""
    loaded = open_transformers(folder)
    encoder = Encoder(loaded.config.model, ComputeConfig(dtype="float32", attention=backend))
    train = bool(loaded.config.model.dropout)

    def loss(params, ids, weights, key):
        inputs = ids, jnp.ones_like(ids), jnp.broadcast_to(jnp.arange(length), ids.shape)
        return (encoder.apply({"params": params}, *inputs, train=train, rngs={"dropout": key}) * weights).sum()

    ids = jnp.asarray(random_ids(rows, length), jnp.int32)
    weights = jax.random.normal(jax.random.key(0), (rows, length, HEADS * HEAD_SIZE))
    return jax.jit(jax.grad(loss)), (jax.device_put(loaded.params["encoder"]), ids, weights)


def ours(folder: str, rows: int, length: int, backend: str) -> Side:
    keep_freed_memory()  # as the command line does
    return our_side(folder, rows, length, backend)


def our_side(folder: str, rows: int, length: int, backend: str) -> Side:
    step, (params, ids, weights) = our_step(folder, rows, length, backend)

    def run(steps: int) -> None:
        for i in range(steps):
            jax.block_until_ready(step(params, ids, weights, jax.random.key(i)))

    return Side(run, rows * length)


def theirs(folder: str, rows: int, length: int, implementation: str, threads: int) -> Side:
    torch.set_num_threads(threads)
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation=implementation).train()
    ids = torch.from_numpy(random_ids(rows, length))
    weights, mask = torch.randn(rows, length, HEADS * HEAD_SIZE), torch.ones_like(ids)

    def run(steps: int) -> None:
        for _ in range(steps):
            (model(input_ids=ids, attention_mask=mask).last_hidden_state * weights).sum().backward()
            model.zero_grad()

    return Side(run, rows * length)


def check(folder: str, length: int, implementation: str, backend: str) -> float:
    """The largest difference between the outputs of both sides, without dropout."""
    ids = random_ids(1, length)
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation=implementation).eval()
    with torch.no_grad():
        expected = model(input_ids=torch.from_numpy(ids)).last_hidden_state.numpy()
    loaded = open_transformers(folder)
    encoder = Encoder(loaded.config.model, ComputeConfig(dtype="float32", attention=backend))
    ids = jnp.asarray(ids, jnp.int32)
    positions = jnp.arange(length)[None]
    output = jax.jit(encoder.apply)({"params": loaded.params["encoder"]}, ids, jnp.ones_like(ids), positions)
    difference = float(np.abs(np.asarray(output) - expected).max())
    if not difference < TOLERANCE:
        raise ValueError(f"The outputs of both sides differ by {difference}.")
    return difference


def send_step_memory(pipe: Connection, build: Callable[..., Side], *arguments: object) -> None:
    """Process of a side: sends the bytes by which its resident memory increases in the second step."""
    transformers.logging.set_verbosity_error()
    side = build(*arguments)
    side.run(1)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = resident_memory()["VmRSS"]
    side.run(1)
    pipe.send(resident_memory()["VmHWM"] - before)


def resident_memory() -> dict[str, int]:
    """Bytes of this process: VmRSS, and its peak VmHWM."""
    values = re.findall(r"(VmHWM|VmRSS):\s+(\d+) kB", Path("/proc/self/status").read_text())
    return {name: 1024 * int(number) for name, number in values}


def step_memory(build: Callable[..., Side], *arguments: object) -> int:
    spawn = multiprocessing.get_context("spawn")
    pipe, end = spawn.Pipe()
    spawn.Process(target=send_step_memory, args=(end, build, *arguments), daemon=True).start()
    end.close()
    return pipe.recv()


def compare_with_torch(family: str, args: argparse.Namespace) -> None:
    """Speed at one length and memory at one length of a model that transformers has created."""
    layers, length, implementations = {
        "deberta": (args.layers, args.deberta_length, ("eager",)),  # the only one it has
        "modernbert": (4, args.modernbert_length, ("sdpa", "eager")),
    }[family]
    for dropout in args.dropout if family == "deberta" else (0.0,):
        config = torch_config(family, layers, max(length, args.memory_length, 512), dropout)
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            transformers.AutoModel.from_config(config).save_pretrained(folder)
            difference = check(folder, min(length, 512), implementations[0], args.backend)
            title = f"{family}, {layers} layers x {HEADS * HEAD_SIZE}, dropout {dropout}"
            print(f"\n{title}: outputs differ by at most {difference:.1e}.\n")
            sides = {"jaxencoder": (ours, folder, args.rows, length, args.backend)}
            for kind in implementations:
                for threads in args.threads:
                    sides[f"torch {kind}, {threads} thread(s)"] = (theirs, folder, args.rows, length, kind, threads)
            measured = measure(sides, args.steps, args.rounds)
            line("side", "rows x tokens", "tokens/s", "CPU s/step", "ratio of jaxencoder")
            line("---", *["---:"] * 4)
            for name, side in measured.items():
                ratio = "" if name == "jaxencoder" else f"**{measured['jaxencoder'].rate / side.rate:.2f}x**"
                line(name, f"{args.rows} x {length}", f"{side.rate:,.0f}", side.cpu, ratio)
            compare_memory(folder, implementations, args)


def compare_memory(folder: str, implementations: tuple[str, ...], args: argparse.Namespace) -> None:
    length, threads = args.memory_length, max(args.threads)
    our_memory = step_memory(our_side, folder, args.rows, length, args.backend)
    step, arrays = our_step(folder, args.rows, length, args.backend)
    temporaries = program(step, *arrays, jax.random.key(0)).temporaries
    print()
    line("side", "rows x tokens", "resident memory of a step MiB", "XLA's temporaries MiB", "ratio to torch")
    line("---", *["---:"] * 4)
    shape = f"{args.rows} x {length}"
    torch_memory = {x: step_memory(theirs, folder, args.rows, length, x, threads) for x in implementations}
    ratio = f"**{our_memory / min(torch_memory.values()):.2f}**"
    line("jaxencoder", shape, f"{our_memory / 2**20:.0f}", f"{temporaries / 2**20:.0f}", ratio)
    for kind, size in torch_memory.items():
        line(f"torch {kind}", shape, f"{size / 2**20:.0f}", "", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {
        "growth": growth,
        "deberta": functools.partial(compare_with_torch, "deberta"),
        "modernbert": functools.partial(compare_with_torch, "modernbert"),
    }
    cores = os.cpu_count() or 1
    parser.add_argument("--parts", nargs="+", default=list(parts), choices=list(parts))
    parser.add_argument("--rounds", type=int, default=5, help="number of blocks of each side")
    parser.add_argument("--steps", type=int, default=2, help="steps in a block, against torch")
    parser.add_argument("--seconds", type=float, default=0.3, help="of a block of growth")
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 1024, 2048, 4096, 8192], help="of growth")
    parser.add_argument("--memory", type=float, default=5, help="growth skips cases with more GiB of temporaries")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--layers", type=int, default=3, help="of DeBERTa")
    parser.add_argument("--deberta-length", type=int, default=512)
    parser.add_argument("--modernbert-length", type=int, default=4096)
    parser.add_argument("--memory-length", type=int, default=2048, help="tokens per row for the memory of a step")
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.0, 0.1], help="of DeBERTa")
    parser.add_argument("--backend", default="auto", help="of jaxencoder against torch")
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, cores}), help="threads of torch")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(machine())
    for part in args.parts:
        print(f"\n{part}\n", flush=True)
        parts[part](args)


if __name__ == "__main__":
    main()
