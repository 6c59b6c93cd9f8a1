"""Load on an embedding server: jaxencoder and sentence-transformers in FastAPI, one after the other, over loopback.

    python benchmarks/serve.py                  # requests per second at 1, 8, 64 and 256 connections; about 3 minutes
    python benchmarks/serve.py --memory 100000  # growth of this server's memory over so many requests
    python benchmarks/serve.py --overload       # how fast requests beyond the limit are refused, and recovery

Each request has one sentence of STS-B; connections stay open. The load comes from wrk (https://github.com/wg/wrk),
which must be installed. sentence-transformers runs in a FastAPI route as its users write it: a function that calls
encode. Both servers embed in float32 by all-MiniLM-L6-v2 and give the same vectors, which is checked first.

Files: glue/stsb/validation.jsonl in the folder JAXENCODER_SHARED_DATA (default: data).
"""

import argparse
import contextlib
import http.client
import json
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
from contrastive import add_model
from train_step import DATA, line, machine

CONNECTIONS = (1, 8, 64, 256)
SENTENCES = DATA / "glue/stsb/validation.jsonl"
LUA = """
local bodies, i = {}, 0
for line in io.lines(os.getenv("BODIES")) do bodies[#bodies + 1] = line end
wrk.method, wrk.headers["Content-Type"] = "POST", "application/json"
request = function()
    i = i % #bodies + 1
    return wrk.format(nil, "/embed", nil, bodies[i])
end
"""
PEER = """
import sys
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

model, app = SentenceTransformer(sys.argv[1], device="cpu"), FastAPI()

class Request(BaseModel):
    inputs: list[str]

@app.post("/embed")
def embed(request: Request):
    return model.encode(request.inputs, normalize_embeddings=True, show_progress_bar=False).tolist()

@app.get("/health")
def health():
    return {}

uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""


@contextlib.contextmanager
def running(side: str, model: str, *options: str) -> Iterator[tuple[str, psutil.Process]]:
    """The address and the process of a server that is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ours = [sys.executable, "-m", "jaxencoder", "serve", model, "--port", str(port), *options]
    command = ours if side == "jaxencoder" else [sys.executable, "-c", PEER, model, str(port)]
    server = subprocess.Popen(command)
    try:
        address = f"http://127.0.0.1:{port}"
        while server.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health"):
                break
            time.sleep(0.5)
        yield address, psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait()


def load(address: str, folder: Path, connections: int, seconds: float) -> tuple[float, float, float, int]:
    """Requests per second, median and 99th percentile of their milliseconds, and how many failed."""
    script = folder / "post.lua"
    script.write_text(LUA)
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds:.0f}s",
        "--latency",
        "--timeout",
        "60s",
        "-s",
        script,
        address,
    ]
    out = subprocess.run(
        command, check=True, text=True, capture_output=True, env={"BODIES": str(folder / "bodies")}
    ).stdout
    found = {name: re.search(rf"^\s*{name}\S*\s+([\d.]+)(\w*)", out, re.M) for name in ("50%", "99%", "Requests/sec:")}
    scale = {"us": 1e-3, "ms": 1, "s": 1e3, "m": 6e4}
    median, last = (float(found[x][1]) * scale[found[x][2]] for x in ("50%", "99%"))
    others = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    failed = sum(int(number) for match in (others, sockets) if match for number in match.groups())
    return float(found["Requests/sec:"][1]), median, last, failed


def compare(model: str, folder: Path, seconds: float) -> None:
    results, vectors = {}, {}
    for side in ("sentence-transformers", "jaxencoder"):
        with running(side, model) as (address, _):
            texts = [json.loads(body)["inputs"][0] for body in (folder / "bodies").read_text().splitlines()[:32]]
            vectors[side] = np.array(httpx.post(f"{address}/embed", json={"inputs": texts}, timeout=60).json())
            load(address, folder, 8, 2)
            results[side] = {c: load(address, folder, c, seconds) for c in CONNECTIONS}
    difference = np.abs(np.subtract(*vectors.values())).max()
    print(f"largest difference of the vectors: {difference:.1e}\n")
    line("connections", "server", "requests/s", "p50 ms", "p99 ms", "failed", "ratio")
    line("---:", "---", *["---:"] * 5)
    for connections in CONNECTIONS:
        base = results["sentence-transformers"][connections][0]
        for side, by_connections in results.items():
            rate, median, last, failed = by_connections[connections]
            line(connections, side, f"{rate:.0f}", f"{median:.1f}", f"{last:.1f}", failed, f"{rate / base:.2f}x")


def memory(model: str, folder: Path, requests: int) -> None:
    """Resident memory after the first tenth of the requests, and after all."""
    with running("jaxencoder", model) as (address, process):
        sizes, sent = [], 0
        for goal in (requests // 10, requests):
            while sent < goal:
                rate, *_ = load(address, folder, 64, 5)
                sent += int(rate * 5)
            sizes.append(process.memory_info().rss / 2**20)
        growth = sizes[1] / sizes[0] - 1
        print(f"{sizes[0]:.0f} MiB after {requests // 10} requests, {sizes[1]:.0f} MiB after {sent}: {growth:+.1%}")


def overload(model: str, folder: Path, seconds: float) -> None:
    """Refusals while four times as many connections are busy as the server takes, and the first answer afterwards."""
    body = (folder / "bodies").read_text().splitlines()[0]
    with running("jaxencoder", model, "--max-concurrent-requests", "16") as (address, _):
        probe = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)

        def ask() -> tuple[int, float]:
            start = time.perf_counter()
            probe.request("POST", "/embed", body, {"Content-Type": "application/json"})
            reply = probe.getresponse()
            reply.read()
            return reply.status, 1000 * (time.perf_counter() - start)

        with ThreadPoolExecutor(1) as threads:
            busy = threads.submit(load, address, folder, 64, seconds)
            time.sleep(1)
            answers = []
            while not busy.done():
                answers.append(ask())
        refused = [milliseconds for status, milliseconds in answers if status == 429]
        last, start = statistics.quantiles(refused, n=100)[-1], time.perf_counter()
        while ask()[0] != 200:
            pass
        recovery = 1000 * (time.perf_counter() - start)
        print(f"{len(refused)} of {len(answers)} refused: p50 {statistics.median(refused):.1f} ms, p99 {last:.1f} ms")
        others = {status for status, _ in answers} - {200, 429} or "none"
        print(f"the next answer after {recovery:.1f} ms; other statuses: {others}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    parser.add_argument("--seconds", type=float, default=10, help="of each load")
    parser.add_argument("--memory", type=int, metavar="REQUESTS")
    parser.add_argument("--overload", action="store_true")
    args = parser.parse_args()
    if not shutil.which("wrk"):
        parser.error("wrk is not installed (Debian: apt install wrk)")
    print(machine(), end="\n\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = map(json.loads, SENTENCES.read_text(encoding="utf-8").splitlines())
        bodies = [json.dumps({"inputs": [record["sentence1"]]}) for record in records]
        (folder / "bodies").write_text("\n".join(bodies))
        if args.memory:
            memory(args.model, folder, args.memory)
        elif args.overload:
            overload(args.model, folder, args.seconds)
        else:
            compare(args.model, folder, args.seconds)


if __name__ == "__main__":
    main()
