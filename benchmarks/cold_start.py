"""Seconds from the start of a process to the vectors of two texts: `jaxencoder embed` and sentence-transformers.

    python benchmarks/cold_start.py     # about 2 minutes on 2 cores

Each side is a fresh process with all-MiniLM-L6-v2, run in turn; the files are in the system's cache, since the first
run of each is not counted. jaxencoder keeps its compiled programs from that run on, in a folder made for the purpose;
the row "no programs kept" is without. Medians, of wall time and of CPU time of the process.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from contrastive import add_model
from train_step import line, machine

TEXTS = ("a short text", "another text, which is a little longer than the first")
PEER = """
import sys
import numpy as np
from sentence_transformers import SentenceTransformer
np.save(sys.argv[2], SentenceTransformer(sys.argv[1], device="cpu").encode(open(sys.argv[3]).read().splitlines()))
"""


def seconds(command: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of a process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=os.environ | environment)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    print(machine(), end="\n\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts, vectors = folder / "texts.txt", str(folder / "vectors.npy")
        texts.write_text("\n".join(TEXTS))
        ours = [sys.executable, "-m", "jaxencoder", "embed", args.model, "--input", str(texts), "--output", vectors]
        sides = {
            "sentence-transformers": ([sys.executable, "-c", PEER, args.model, vectors, str(texts)], {}),
            "jaxencoder, no programs kept": (ours, {"JAX_COMPILATION_CACHE_DIR": ""}),
            "jaxencoder": (ours, {"JAXENCODER_CACHE": str(folder / "cache")}),
        }
        times: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
        for _ in range(args.repeats + 1):
            for side, (command, environment) in sides.items():
                times[side].append(seconds(command, environment))
    medians = {side: [statistics.median(x) for x in zip(*rows[1:], strict=True)] for side, rows in times.items()}
    base = medians["sentence-transformers"][0]
    line("process", "wall s", "CPU s", "ratio")
    line("---", "---:", "---:", "---:")
    for side, (wall, cpu) in medians.items():
        line(side, f"{wall:.2f}", f"{cpu:.2f}", f"{wall / base:.2f}")


if __name__ == "__main__":
    main()
