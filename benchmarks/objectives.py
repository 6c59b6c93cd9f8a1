"""Cost of each pretraining objective relative to plain masked language modeling, with the same encoder.

    python benchmarks/objectives.py                        # 4 layers x 256, rows of 512 tokens, a few minutes
    python benchmarks/objectives.py --length 128 --batch 16

Each step is the training step of `jaxencoder train`, on packed rows of random tokens. The objectives alternate in short
blocks of steps, so that other load on the machine affects all of them; the result is the median of the blocks. The
second table is the corruption alone, compiled separately, as a fraction of the plain step.
"""

import argparse
import dataclasses
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.objectives.masking import Masking, mask_tokens
from jaxencoder.objectives.mlm import MaskedLM
from jaxencoder.objectives.replaced_token import ReplacedToken
from jaxencoder.training.config import OptimizerConfig
from jaxencoder.training.memory import keep_freed_memory
from jaxencoder.training.optimizers import make_optimizer
from jaxencoder.training.step import init_state, train_step

MASKINGS = {
    "single tokens": Masking(),
    "30%": Masking(rate=0.3),
    "whole words": Masking(whole_words=True),
    "spans": Masking(spans="geometric"),
    "n-grams of words": Masking(spans="ngram", max_span_length=3, whole_words=True),
    "static": Masking(static=True),
}
OBJECTIVES = {f"MLM, {name}": MaskedLM(masking) for name, masking in MASKINGS.items()} | {
    "MLM and pairs": MaskedLM(pairs=True),
    "replaced tokens, generator 1/4": ReplacedToken(),
    "replaced tokens, half as deep (gdes)": ReplacedToken(generator_width=1.0, generator_depth=0.5, sharing="gdes"),
}


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A stand-in for a WordPiece tokenizer: every fourth token continues a word."""

    vocab_size: int
    mask_id: int = 103
    special_ids: tuple[int, ...] = (0, 100, 101, 102, 103)

    def word_starts(self) -> np.ndarray:
        return np.arange(self.vocab_size) % 4 > 0


def batch(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Rows filled with documents of 20 to 200 tokens."""
    rng = np.random.default_rng(0)
    B, T = args.batch, args.length
    rows = {name: np.zeros((B, T), np.int32) for name in ("segment_ids", "positions", "token_type_ids")}
    for b in range(B):
        start, segment = 0, 1
        while start < T:
            end = min(start + int(rng.integers(20, 200)), T)
            rows["segment_ids"][b, start:end], rows["positions"][b, start:end] = segment, np.arange(end - start)
            rows["token_type_ids"][b, (start + end) // 2 : end] = 1
            start, segment = end, segment + 1
    rows["token_ids"] = rng.integers(1000, args.vocabulary, (B, T)).astype(np.int32)
    E = int(rows["segment_ids"].max())
    is_document = np.arange(1, E + 1) <= rows["segment_ids"].max(1, keepdims=True)
    rows["labels"] = np.where(is_document, rng.integers(0, 2, (B, E)), -1).astype(np.int32)
    return rows | {"row_ids": np.arange(B, dtype=np.uint32)}


def stepper(objective, args: argparse.Namespace, rows: dict[str, np.ndarray]) -> Callable[[int], None]:
    config = EncoderConfig(
        vocab_size=args.vocabulary, num_layers=args.layers, hidden_size=args.hidden, mlp_size=4 * args.hidden,
        num_heads=args.hidden // 64, max_length=args.length,
    )  # fmt: skip
    built = objective.build(config, ComputeConfig(dtype=args.dtype), Vocabulary(args.vocabulary))
    optimizer = make_optimizer(OptimizerConfig(), 1000)
    key = jax.random.key(0)
    state = jax.jit(lambda: init_state(built, optimizer, key))()
    step = jax.jit(lambda state, rows: train_step(built, optimizer, state, rows, key, 1000), donate_argnums=0)

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, metrics = step(state, rows)
        jax.block_until_ready(metrics)

    return run


def corrupter(masking: Masking, args: argparse.Namespace, rows: dict[str, np.ndarray]) -> Callable[[int], None]:
    corrupt = jax.jit(lambda key: mask_tokens(rows, key, masking, Vocabulary(args.vocabulary)))

    def run(steps: int) -> None:
        for i in range(steps):
            masked = corrupt(jax.random.key(i))
        jax.block_until_ready(masked)

    return run


def medians(runs: dict[str, Callable[[int], None]], blocks: int, steps: int) -> dict[str, float]:
    """Median seconds of one step of each, in alternating blocks."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(2)  # compile and warm up
    for _ in range(blocks):
        for name, run in runs.items():
            start = time.perf_counter()
            run(steps)
            seconds[name].append((time.perf_counter() - start) / steps)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("layers", 4), ("hidden", 256), ("length", 512), ("batch", 8), ("vocabulary", 30_522)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="steps in a block")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()
    keep_freed_memory()
    rows = jax.device_put(batch(args))
    tokens = args.batch * args.length

    step_seconds = medians({name: stepper(o, args, rows) for name, o in OBJECTIVES.items()}, args.blocks, args.steps)
    plain = step_seconds["MLM, single tokens"]
    print(
        f"\n| objective ({args.dtype}, {args.batch} x {args.length}) | tokens/s | relative step time |\n|---|---:|---:|"
    )
    for name, seconds in step_seconds.items():
        print(f"| {name} | {tokens / seconds:,.0f} | {seconds / plain:.2f} |")

    corrupters = {name: corrupter(masking, args, rows) for name, masking in MASKINGS.items()}
    corruption_seconds = medians(corrupters, args.blocks, 10 * args.steps)
    print("\n| corruption alone | ms | fraction of the plain step |\n|---|---:|---:|")
    for name, seconds in corruption_seconds.items():
        print(f"| {name} | {1000 * seconds:.2f} | {seconds / plain:.1%} |")


if __name__ == "__main__":
    main()
