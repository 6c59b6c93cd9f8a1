"""Speed of one masked-language-model training step against Hugging Face transformers in torch.

    python benchmarks/train_step.py                 # both tables, about 15 minutes on 2 cores
    python benchmarks/train_step.py --families bert --dtypes float32 --dropout 0.1 --no-documents

Both sides do the same work: the same architecture and sizes, AdamW, clipping at norm 1, 15% of the tokens masked inside
each step. torch runs as its users run it: eagerly, with scaled_dot_product_attention (except DeBERTa, which has its own
attention), the fused AdamW of `Trainer`, and bfloat16 by autocast; jaxencoder runs as in `jaxencoder train`. Each side
is a process that sleeps while the other one works. Short blocks of steps alternate, so that other load on the machine
affects both, and the result is the median of the blocks; CPU seconds per step are a second measure. Batches of random
token ids are made in advance. The second table has documents of real lengths: packed into rows by jaxencoder, padded to
the longest of a batch for torch, with the same documents in a step; tokens per second exclude padding. Real documents
are glue/sst2/train.jsonl and text/reviews.jsonl.xz in the folder JAXENCODER_SHARED_DATA (default: data); without it
lengths are random.

Run it on an idle machine: if other programs use its cores, torch's OpenMP threads wait for one another, so that its
time increases far more than jaxencoder's and its CPU seconds include the waiting. OMP_WAIT_POLICY=passive excludes the
waiting from CPU seconds.
"""

import argparse
import itertools
import json
import lzma
import multiprocessing
import os
import platform
import re
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.objectives.mlm import MaskedLM
from jaxencoder.training.config import OptimizerConfig
from jaxencoder.training.memory import keep_freed_memory
from jaxencoder.training.optimizers import make_optimizer
from jaxencoder.training.step import init_state, train_step

DATA = Path(os.environ.get("JAXENCODER_SHARED_DATA") or "data")  # published sets, as in the tests
PAD, UNK, CLS, SEP, MASK = 0, 100, 101, 102, 103


class Vocabulary(NamedTuple):
    vocab_size: int
    mask_id: int = MASK
    special_ids: tuple[int, ...] = (PAD, UNK, CLS, SEP, MASK)


class Side(NamedTuple):
    """One library: a function that runs a number of steps and waits for them, and the tokens of text per step."""

    run: Callable[[int], None]
    tokens: float


def our_config(family: str, args: argparse.Namespace, length: int, dropout: float) -> EncoderConfig:
    sizes = dict(vocab_size=args.vocabulary, num_layers=args.layers, hidden_size=args.hidden, num_heads=args.heads)
    sizes |= dict(mlp_size=args.mlp, max_length=max(length, 512), dropout=dropout, attention_dropout=dropout)
    if family == "bert":
        return EncoderConfig(**sizes)
    if family == "deberta":
        return EncoderConfig(
            **sizes,
            **dict(positions="none", disentangled=("c2p", "p2c"), position_buckets=256, relative_embedding_norm=True),
            **dict(max_distance=sizes["max_length"], relative_projection="shared", token_types=0),
            norm_epsilon=1e-7,
        )
    return EncoderConfig(
        **sizes,
        **dict(positions="rotary", rope_theta=160_000.0, windows=(0, 64, 64), token_types=0, norm_placement="pre"),
        **dict(norm_epsilon=1e-5, first_attention_norm=False, gated_mlp=True),
        **dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "head_bias"), False),
    )


def their_model(family: str, args: argparse.Namespace, length: int, dropout: float) -> torch.nn.Module:
    sizes = dict(vocab_size=args.vocabulary, num_hidden_layers=args.layers, hidden_size=args.hidden)
    sizes |= dict(num_attention_heads=args.heads, intermediate_size=args.mlp, max_position_embeddings=max(length, 512))
    sizes |= dict(pad_token_id=PAD, tie_word_embeddings=True)
    drop = dict(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    if family == "deberta":
        config = transformers.DebertaV2Config(
            **sizes,
            **drop,
            **dict(relative_attention=True, position_buckets=256, norm_rel_ebd="layer_norm", share_att_key=True),
            **dict(pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0),
        )
        return transformers.DebertaV2ForMaskedLM(config)
    sizes["attn_implementation"] = "sdpa"  # DeBERTa has none
    if family == "bert":
        return transformers.BertForMaskedLM(transformers.BertConfig(**sizes, **drop))
    config = transformers.ModernBertConfig(
        **sizes,
        **dict(attention_dropout=dropout, embedding_dropout=dropout, mlp_dropout=dropout),
        **dict(cls_token_id=CLS, sep_token_id=SEP, bos_token_id=CLS, eos_token_id=SEP),
        sparse_prediction=family == "modernbert, sparse_prediction",
    )
    return transformers.ModernBertForMaskedLM(config)


def ours(family: str, args: argparse.Namespace, dtype: str, dropout: float, batches: list[dict]) -> Side:
    keep_freed_memory()
    config = our_config(family, args, batches[0]["token_ids"].shape[1], dropout)
    objective = MaskedLM().build(config, ComputeConfig(dtype=dtype), Vocabulary(args.vocabulary))
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-4), 1000)
    key = jax.random.key(0)
    state = init_state(objective, optimizer, key)
    step = jax.jit(lambda state, batch: train_step(objective, optimizer, state, batch, key), donate_argnums=0)
    stream = itertools.cycle([jax.device_put(batch) for batch in batches])

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, metrics = step(state, next(stream))
        total, weight = metrics["loss"]
        if not jnp.isfinite(total / weight):
            raise ValueError("The loss is not finite.")

    return Side(run, statistics.mean(int((batch["segment_ids"] > 0).sum()) for batch in batches))


def theirs(family: str, args: argparse.Namespace, dtype: str, dropout: float, batches: list[dict]) -> Side:
    model = their_model(family, args, max(batch["input_ids"].shape[1] for batch in batches), dropout).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    stream = itertools.cycle([{name: torch.from_numpy(x) for name, x in batch.items()} for batch in batches])

    def mask(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask as DataCollatorForLanguageModeling."""
        predicted = torch.bernoulli((ids > MASK) * 0.15).bool()
        labels = ids.masked_fill(~predicted, -100)
        masked = torch.bernoulli(torch.full(ids.shape, 0.8)).bool() & predicted
        random = torch.bernoulli(torch.full(ids.shape, 0.5)).bool() & predicted & ~masked
        ids = ids.masked_fill(masked, MASK)
        return torch.where(random, torch.randint(args.vocabulary, ids.shape), ids), labels

    def run(steps: int) -> None:
        for _ in range(steps):
            batch = next(stream)
            ids, labels = mask(batch["input_ids"])
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                loss = model(input_ids=ids, attention_mask=batch["attention_mask"], labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        if not torch.isfinite(loss):
            raise ValueError("The loss is not finite.")

    return Side(run, statistics.mean(int(batch["attention_mask"].sum()) for batch in batches))


class Measured(NamedTuple):
    rate: float  # tokens of text per second, median of the blocks
    cpu: float  # CPU seconds per step, all threads


def serve(pipe: Connection, build: Callable[..., Side], *arguments: object) -> None:
    """Process of a side: sends the tokens of a step, then runs the received numbers of steps, until 0."""
    torch.set_num_threads(os.cpu_count() or 1)
    transformers.logging.set_verbosity_error()
    side = build(*arguments)
    pipe.send(side.tokens)
    while steps := pipe.recv():
        wall, cpu = time.perf_counter(), cpu_seconds()
        side.run(steps)
        pipe.send(((time.perf_counter() - wall) / steps, (cpu_seconds() - cpu) / steps))


def measure(sides: dict[str, tuple], steps: int, rounds: int) -> dict[str, Measured]:
    """Alternate blocks of `steps` steps, after one block of each to compile and warm up."""
    spawn = multiprocessing.get_context("spawn")
    pipes, tokens, blocks = {}, {}, {}
    for name, side in sides.items():
        pipes[name], end = spawn.Pipe()
        spawn.Process(target=serve, args=(end, *side), daemon=True).start()
        end.close()  # so that recv raises EOFError if a side dies
        tokens[name], blocks[name] = pipes[name].recv(), []
    for i in range(rounds + 1):
        for name, pipe in pipes.items():
            pipe.send(steps)
            block = pipe.recv()
            if i:
                blocks[name].append(block)
    for pipe in pipes.values():
        pipe.send(0)
    return {
        name: Measured(tokens[name] / statistics.median(w for w, _ in b), statistics.median(c for _, c in b))
        for name, b in blocks.items()
    }


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def pad(documents: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of one document, padded to the longest."""
    length = max(len(d) for d in documents)
    ids = np.stack([np.pad(d, (0, length - len(d)), constant_values=PAD) for d in documents])
    mask = np.stack([np.arange(length) < len(d) for d in documents])
    return {"input_ids": ids.astype(np.int64), "attention_mask": mask.astype(np.int64)}


def pack(documents: list[np.ndarray], length: int, rows: int) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Rows filled by first fit, and their documents: all before the first one that does not fit."""
    batch = {name: np.zeros((rows, length), np.int32) for name in ("token_ids", "segment_ids", "positions")}
    used, count = np.zeros(rows, int), np.zeros(rows, int)
    packed = []
    for document in documents:
        n = len(document)
        fits = np.flatnonzero(used + n <= length)
        if not len(fits):
            break
        r = fits[0]
        span = slice(used[r], used[r] + n)
        used[r], count[r] = used[r] + n, count[r] + 1
        batch["token_ids"][r, span], batch["segment_ids"][r, span] = document, count[r]
        batch["positions"][r, span] = np.arange(n)
        packed.append(document)
    return batch, packed


def random_document(length: int, rng: np.random.Generator, vocabulary: int) -> np.ndarray:
    return np.concatenate([[CLS], rng.integers(1000, vocabulary, length - 2), [SEP]])


def document_lengths(source: str, rng: np.random.Generator) -> np.ndarray:
    """Lengths in tokens of 20,000 documents, with 1.1 WordPiece tokens per word and 1 per punctuation mark."""
    files = {"SST-2 training texts": DATA / "glue/sst2/train.jsonl", "film reviews": DATA / "text/reviews.jsonl.xz"}
    if source not in files:
        return rng.lognormal(np.log(48), 0.8, 20_000)
    field = "sentence" if source.startswith("SST") else "text"
    open_file = lzma.open if files[source].suffix == ".xz" else open
    with open_file(files[source], "rt", encoding="utf-8") as f:
        texts = [json.loads(line)[field] for line in itertools.islice(f, 20_000)]
    words = np.array([[len(re.findall(r"\w+", t)), len(re.findall(r"[^\w\s]", t))] for t in texts])
    return rng.permutation(words @ [1.1, 1.0])


def machine() -> str:
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    versions = {m.__name__: m.__version__ for m in (jax, flax, torch, transformers)}
    return (
        f"{cpu}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}; "
        f"Python {platform.python_version()}, {', '.join(map(' '.join, versions.items()))}; "
        f"{time.strftime('%Y-%m-%d')}, load {os.getloadavg()[0]:.1f}"
    )


def line(*cells: object) -> None:
    print("| " + " | ".join(f"{c:.2f}" if isinstance(c, float) else f"{c}" for c in cells) + " |", flush=True)


def compare(label: tuple, sides: dict[str, tuple], args: argparse.Namespace) -> None:
    m = measure(sides, args.steps, args.rounds)
    a, b = m["ours"], m["theirs"]
    line(*label, f"{b.rate:.0f}", f"{a.rate:.0f}", f"**{a.rate / b.rate:.2f}x**", b.cpu, a.cpu)


COLUMNS = ("torch tokens/s", "jaxencoder tokens/s", "ratio", "torch CPU s/step", "jaxencoder CPU s/step")


def full_rows(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    documents = [[random_document(args.length, rng, args.vocabulary) for _ in range(args.batch)] for _ in range(4)]
    our_batches = [pack(d, args.length, args.batch)[0] for d in documents]
    line("model", "dtype", "dropout", *COLUMNS)
    line(*["---"] * 3, *["---:"] * len(COLUMNS))
    for family, dtype, dropout in itertools.product(args.families, args.dtypes, args.dropout):
        sides = {
            "theirs": (theirs, family, args, dtype, dropout, [pad(d) for d in documents]),
            "ours": (ours, family, args, dtype, dropout, our_batches),
        }
        compare((family, dtype, dropout), sides, args)


def documents_of_real_lengths(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    sources = {"SST-2 training texts": 128, "film reviews": 512} if DATA.is_dir() else {}
    line("model", "documents", "row", "mean length", "padding torch", "padding jaxencoder", *COLUMNS)
    line(*["---"] * 3, *["---:"] * (3 + len(COLUMNS)))
    for source, length in (sources | {"log-normal, median 48": 128}).items():
        lengths = np.clip(document_lengths(source, rng), 4, length).astype(int)
        stream = [random_document(n, rng, args.vocabulary) for n in lengths]
        rows = args.batch * args.length // length
        our_batches, their_batches = [], []
        for _ in range(8):
            batch, packed = pack(stream, length, rows)
            stream = stream[len(packed) :]
            our_batches.append(batch)
            their_batches.append(pad(packed))
        padding = [
            1 - statistics.mean(b[name].astype(bool).mean() for b in batches)
            for name, batches in (("attention_mask", their_batches), ("segment_ids", our_batches))
        ]
        for family in args.families:
            sides = {
                "theirs": (theirs, family, args, "float32", args.dropout[0], their_batches),
                "ours": (ours, family, args, "float32", args.dropout[0], our_batches),
            }
            label = (family, source, f"{rows} x {length}", f"{lengths.mean():.0f}", *(f"{p:.0%}" for p in padding))
            compare(label, sides, args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    families = ["bert", "modernbert", "modernbert, sparse_prediction", "deberta"]
    parser.add_argument("--families", nargs="+", default=families, choices=families)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.1, 0.0])
    parser.add_argument("--documents", action=argparse.BooleanOptionalAction, default=True, help="the second table")
    parser.add_argument("--rows", action=argparse.BooleanOptionalAction, default=True, help="the first table")
    parser.add_argument("--rounds", type=int, default=5, help="number of blocks of each side")
    parser.add_argument("--steps", type=int, default=2, help="steps in a block")
    sizes = dict(batch=16, length=128, layers=4, hidden=256, heads=4, mlp=1024, vocabulary=30522)
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    print(machine(), end="\n\n")
    if args.rows:
        print(f"Full rows, {args.batch} x {args.length} tokens; {args.layers} layers x {args.hidden}:\n")
        full_rows(args)
    if args.documents:
        print(f"\nDocuments, float32, dropout {args.dropout[0]}:\n")
        documents_of_real_lengths(args)


if __name__ == "__main__":
    main()
