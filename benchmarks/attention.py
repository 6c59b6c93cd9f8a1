"""Attention of long rows, forward and backward: how it grows, and beside Hugging Face transformers in torch.

    python benchmarks/attention.py                  # all three parts, about 20 minutes on 2 cores
    python benchmarks/attention.py --parts growth --lengths 512 1024 2048 --rounds 3
    python benchmarks/attention.py --parts modernbert --rows 2

growth: one call of `kernels.attention` with its gradients, 4 heads of 64, float32: with a window of 64 tokens to either
side, without one, and with the scores of distances that DeBERTa adds, by each backend. Time is the median of all runs,
in rounds in which the cases take turns; the exponent is that of the length in a straight line through the logarithms.
Memory is what XLA sets aside for temporaries (see `training.program`), also as a share of one array of scores, 4 bytes
for each two tokens and each head: what never holds one falls below it as rows grow.

deberta, modernbert: layers of 256, 4 heads, with a vocabulary of 1,000, of one model: transformers makes it, jaxencoder
loads its weights, and the outputs of both are compared first. A step is the encoder's output and the gradients of all
its weights by a weighted sum of it, in float32, without an optimiser. DeBERTa has the published options of v3
(distances in 256 buckets, both terms, shared projections), ModernBERT one global layer and two local ones in turn. Each
side is a process of its own that sleeps while the others work; blocks of steps alternate, after one to compile and to
warm up, and the median of the blocks counts. torch runs eager, with each number of threads and each of its attention
implementations; all are shown, each with its own ratio.

Memory of a step is how far the process's resident memory rises above where it was, in one step after another has run,
with freed memory given back before: the same for both sides. Beside ours stands XLA's own number, of
`training.program`.

Run it on a machine that does nothing else; see train_step.py for what other work does to torch's threads.
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
CASES = {  # window, backend, and whether distances are compared with contents
    "local, banded": (WINDOW, "banded", False),
    "local, dense": (WINDOW, "dense", False),
    "global, chunked": (0, "chunked", False),
    "global, dense": (0, "dense", False),
    "global with distances, chunked": (0, "chunked", True),
    "global with distances, dense": (0, "dense", True),
}
VOCABULARY = 1000
TOLERANCE = 1e-4  # between the outputs of both sides, which are of the size of 1
SIZES = dict(vocab_size=VOCABULARY, hidden_size=HEADS * HEAD_SIZE, num_attention_heads=HEADS, pad_token_id=0)


class Case(NamedTuple):
    """A compiled call of attention with its gradients."""

    run: Callable[[], None]
    temporaries: int


def attention_case(window: int, backend: str, distances: bool, length: int) -> Case:
    segment_ids = jnp.ones((1, length), jnp.int32)

    @jax.jit
    def gradients(qkv, tables, upward):
        def attend(qkv, tables):
            relative = RelativeTerms(*tables) if distances else None
            options = AttentionOptions(window, backend=backend)
            return attention(*qkv, segment_ids, relative=relative, options=options)

        return jax.vjp(attend, qkv, tables)[1](upward)

    rng = np.random.default_rng(0)

    def random(*shape: int, scale: float = 1.0) -> jax.Array:
        return jnp.asarray(scale * rng.standard_normal((*shape, HEADS, HEAD_SIZE), np.float32))

    # Scores of the size of 1: larger ones make weights so small that a processor takes many times as long for them.
    tables = tuple(random(2 * length - 1, scale=HEAD_SIZE**-0.5) for _ in range(2 * distances))
    qkv = random(1, length, scale=HEAD_SIZE**-0.5), random(1, length), random(1, length)
    given = qkv, tables, random(1, length)
    return Case(lambda: jax.block_until_ready(gradients(*given)), program(gradients, *given).temporaries)


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
    line("attention", "tokens", "ms", "tokens/s", "temporaries MiB", "of one array of scores")
    line("---", *["---:"] * 5)
    for (name, length), case in cases.items():
        found = times.get((name, length))
        speed = (f"{1e3 * (s := statistics.median(found)):.1f}", f"{length / s:,.0f}") if found else ("not run", "")
        share = case.temporaries / (4 * length**2 * HEADS)
        line(name, length, *speed, f"{case.temporaries / 2**20:.1f}", share)
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


def their_config(family: str, layers: int, length: int, dropout: float) -> transformers.PretrainedConfig:
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
    """The jitted gradients, and their arguments but for the key."""
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
    found = jax.jit(encoder.apply)({"params": loaded.params["encoder"]}, ids, jnp.ones_like(ids), positions)
    difference = float(np.abs(np.asarray(found) - expected).max())
    if not difference < TOLERANCE:
        raise ValueError(f"The outputs of both sides differ by {difference}.")
    return difference


def risen(pipe: Connection, build: Callable[..., Side], *arguments: object) -> None:
    """A process that sends by how many bytes its resident memory rises in a step, after another one."""
    transformers.logging.set_verbosity_error()
    side = build(*arguments)
    side.run(1)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = resident()["VmRSS"]
    side.run(1)
    pipe.send(resident()["VmHWM"] - before)


def resident() -> dict[str, int]:
    found = re.findall(r"(VmHWM|VmRSS):\s+(\d+) kB", Path("/proc/self/status").read_text())
    return {name: 1024 * int(number) for name, number in found}


def step_memory(build: Callable[..., Side], *arguments: object) -> int:
    spawn = multiprocessing.get_context("spawn")
    pipe, end = spawn.Pipe()
    spawn.Process(target=risen, args=(end, build, *arguments), daemon=True).start()
    end.close()
    return pipe.recv()


def beside_torch(family: str, args: argparse.Namespace) -> None:
    """Speed at one length, and memory at one length, of a model that transformers has made."""
    layers, length, implementations = {
        "deberta": (args.layers, args.deberta_length, ("eager",)),  # it has no other
        "modernbert": (4, args.modernbert_length, ("sdpa", "eager")),
    }[family]
    for dropout in args.dropout if family == "deberta" else (0.0,):
        config = their_config(family, layers, max(length, args.memory_length, 512), dropout)
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            transformers.AutoModel.from_config(config).save_pretrained(folder)
            difference = check(folder, min(length, 512), implementations[0], args.backend)
            what = f"{family}, {layers} layers x {HEADS * HEAD_SIZE}, dropout {dropout}"
            print(f"\n{what}: outputs differ by {difference:.1e} at most.\n")
            sides = {"jaxencoder": (ours, folder, args.rows, length, args.backend)}
            for how in implementations:
                for threads in args.threads:
                    sides[f"torch {how}, {threads} thread(s)"] = (theirs, folder, args.rows, length, how, threads)
            found = measure(sides, args.steps, args.rounds)
            line("side", "rows x tokens", "tokens/s", "CPU s/step", "jaxencoder is faster by")
            line("---", *["---:"] * 4)
            for name, side in found.items():
                ratio = "" if name == "jaxencoder" else f"**{found['jaxencoder'].rate / side.rate:.2f}x**"
                line(name, f"{args.rows} x {length}", f"{side.rate:,.0f}", side.cpu, ratio)
            memory(folder, implementations, args)


def memory(folder: str, implementations: tuple[str, ...], args: argparse.Namespace) -> None:
    length, threads = args.memory_length, max(args.threads)
    our = step_memory(our_side, folder, args.rows, length, args.backend)
    step, arrays = our_step(folder, args.rows, length, args.backend)
    set_aside = program(step, *arrays, jax.random.key(0)).temporaries
    print()
    line("side", "rows x tokens", "resident memory of a step MiB", "XLA's temporaries MiB", "of torch's")
    line("---", *["---:"] * 4)
    shape = f"{args.rows} x {length}"
    torchs = {how: step_memory(theirs, folder, args.rows, length, how, threads) for how in implementations}
    share = f"**{our / min(torchs.values()):.2f}**"
    line("jaxencoder", shape, f"{our / 2**20:.0f}", f"{set_aside / 2**20:.0f}", share)
    for how, size in torchs.items():
        line(f"torch {how}", shape, f"{size / 2**20:.0f}", "", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {
        "growth": growth,
        "deberta": functools.partial(beside_torch, "deberta"),
        "modernbert": functools.partial(beside_torch, "modernbert"),
    }
    cores = os.cpu_count() or 1
    parser.add_argument("--parts", nargs="+", default=list(parts), choices=list(parts))
    parser.add_argument("--rounds", type=int, default=5, help="alternated blocks of each side")
    parser.add_argument("--steps", type=int, default=2, help="steps in a block, beside torch")
    parser.add_argument("--seconds", type=float, default=0.3, help="a block's, of growth")
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 1024, 2048, 4096, 8192], help="of growth")
    parser.add_argument("--memory", type=float, default=5, help="GiB of temporaries, beyond which growth runs no case")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--layers", type=int, default=3, help="of DeBERTa")
    parser.add_argument("--deberta-length", type=int, default=512)
    parser.add_argument("--modernbert-length", type=int, default=4096)
    parser.add_argument("--memory-length", type=int, default=2048, help="tokens where a step's memory is measured")
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.0, 0.1], help="of DeBERTa")
    parser.add_argument("--backend", default="auto", help="of jaxencoder beside torch")
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, cores}), help="of torch, each tried")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(machine())
    for part in args.parts:
        print(f"\n{part}\n", flush=True)
        parts[part](args)


if __name__ == "__main__":
    main()
