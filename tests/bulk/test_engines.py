"""Workers of Ray make the same bytes as this process, and none of them is needed to the end."""

import contextlib
import importlib
import logging
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from jaxencoder.bulk import embed as embed_module
from jaxencoder.bulk import engines
from jaxencoder.bulk.config import BulkConfig
from jaxencoder.bulk.cores import take_cores
from jaxencoder.bulk.embed import Report, embed_folder
from jaxencoder.bulk.embedder import Embedder
from jaxencoder.bulk.plan import make_plan
from jaxencoder.cli.main import main
from tests.ray_session import FILTERS, ray  # noqa: F401

from .conftest import read_shards, records, shard_bytes, write_jsonl

pytestmark = FILTERS

CONFIG = BulkConfig(columns=("year",), shard_records=10)


@pytest.fixture
def expected(folder, source, tmp_path):
    """The shards that this process makes."""
    embed_folder(folder, str(source.path), str(tmp_path / "process"), config=CONFIG)
    return shard_bytes(tmp_path / "process")


def ray_config(workers: int, **settings) -> BulkConfig:
    return BulkConfig(**({"columns": ("year",), "shard_records": 10, "engine": "ray", "workers": workers} | settings))


def worker_processes(parent: int | None = None) -> list[psutil.Process]:
    workers = []
    for process in psutil.Process(parent).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            if "ray::RayWorker" in " ".join(process.cmdline()):
                workers.append(process)
    return workers


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_bytes_of_one_process(ray, folder, source, tmp_path, expected, monkeypatch, workers):  # noqa: F811
    monkeypatch.setattr(Embedder, "_open", None)  # here; the workers import it anew
    report = embed_folder(folder, str(source.path), str(tmp_path / "out"), config=ray_config(workers))
    assert report == Report(133, 133, 14, 14)
    assert shard_bytes(tmp_path / "out") == expected
    # Another engine continues the folder.
    monkeypatch.undo()
    assert embed_folder(folder, str(source.path), str(tmp_path / "out"), config=CONFIG).new_shards == 0


def test_a_killed_worker_loses_nothing(ray, folder, source, tmp_path, expected, monkeypatch):  # noqa: F811
    killed, run = [], engines.run

    def run_and_kill(job, parts):
        for made in run(job, parts):
            if len(killed) < 2:
                (process, *_) = worker_processes()
                killed.append(process.pid)
                process.kill()
            yield made

    monkeypatch.setattr(embed_module.engines, "run", run_and_kill)
    report = embed_folder(folder, str(source.path), str(tmp_path / "out"), config=ray_config(2))
    assert report == Report(133, 133, 14, 14) and len(set(killed)) == 2
    assert shard_bytes(tmp_path / "out") == expected


def test_a_killed_command_is_continued(ray, folder, source, tmp_path):  # noqa: F811
    """The command with a Ray of its own is killed with half of the shards; its workers end with it."""
    more = records(5000, 1000)
    write_jsonl(source.path / "c.jsonl", more)
    words = [folder, "--input", str(source.path), "--output", str(tmp_path / "out"), "--shard-records", "8"]
    words += ["--engine", "ray"]
    command = [sys.executable, "-m", "jaxencoder", "embed", *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(list((tmp_path / "out").glob("part-*"))) < 15:
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        workers = worker_processes(process.pid)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and len(workers) == 2
    assert not psutil.wait_procs(workers, timeout=300)[1]
    for agent in filter(psutil.Process.is_running, children):  # Ray's own agents notice it after a minute
        agent.kill()
    before = shard_bytes(tmp_path / "out")
    assert 15 <= len(before) < 143
    assert main(["embed", *words, "--workers", "2"]) == 0
    after = shard_bytes(tmp_path / "out")
    assert all(after[name] == content for name, content in before.items())
    assert read_shards(tmp_path / "out")["id"].to_pylist() == [row["id"] for row in source.records + more]
    embed_folder(folder, str(source.path), str(tmp_path / "one"), config=BulkConfig(shard_records=8))
    assert shard_bytes(tmp_path / "one") == after


def test_a_mistake_in_a_worker_is_one_sentence(ray, folder, source, tmp_path, monkeypatch, capsys):  # noqa: F811
    def run_and_truncate(job, parts):
        write_jsonl(source.path / "a.jsonl", records(0, 3))  # after it was counted
        yield from run(job, parts)

    run = engines.run
    monkeypatch.setattr(embed_module.engines, "run", run_and_truncate)
    words = ["--input", str(source.path), "--output", f"{tmp_path}/out/", "--engine", "ray", "--workers", "1"]
    assert main(["embed", folder, *words]) == 2
    # Ray reports workers that an earlier test has killed.
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line and "(raylet)" not in line)
    assert "a.jsonl has become shorter since it was counted" in error
    assert not psutil.wait_procs(worker_processes(), timeout=300)[1]


def test_a_part_that_kills_its_workers_is_given_up(ray, source):  # noqa: F811
    class Deadly:
        def start(self) -> None:
            pass

        def make(self, part):
            if part.start == 20:
                os._exit(1)
            return part

    parts = make_plan(str(source.path / "a.jsonl"), CONFIG).parts
    actor = ray.remote(Deadly).options(max_restarts=-1, max_task_retries=1).remote()
    made: list = []
    with pytest.raises(OSError, match="died while embedding records 20 to 30 of .*a.jsonl, often for lack of memory"):
        made.extend(engines._distributed(ray, {actor.start.remote(): actor}, parts))
    assert [part.start for part in made] == [0, 10]
    ray.kill(actor)


def test_waiting_for_room_in_the_cluster_is_said_once(source, caplog):
    """A stand-in for a cluster whose only worker starts late."""

    class Late:
        def __init__(self) -> None:
            self.ready = [[], [], ["start"], ["make"]]
            self.make = SimpleNamespace(remote=lambda part: "make")

        def wait(self, references, num_returns, timeout):
            return self.ready.pop(0), []

        def get(self, reference):
            return None if reference == "start" else "made"

    cluster = Late()
    (part, *_) = make_plan(str(source.path), CONFIG).parts
    with caplog.at_level(logging.WARNING):
        assert list(engines._distributed(cluster, {"start": cluster}, [part])) == ["made"]
    (message,) = caplog.messages
    assert message.startswith("No worker of Ray has started yet")


def test_more_workers_than_devices(ray, folder, source, tmp_path, capsys):  # noqa: F811
    words = ["--input", str(source.path), "--output", f"{tmp_path}/out/", "--engine", "ray", "--workers", "3"]
    assert main(["embed", folder, *words]) == 2
    assert "workers is 3, but the cluster of Ray has 2 CPUs; give at most as many" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("nodes", "workers", "share"),
    [
        ([{"CPU": 8.0}], None, (8, {"num_cpus": 1}, 1)),
        ([{"CPU": 8.0}], 3, (3, {"num_cpus": 2}, 2)),
        ([{"CPU": 8.0}, {"CPU": 8.0}], 1, (1, {"num_cpus": 8}, 8)),
        ([{"CPU": 8.0}] * 3, 4, (4, {"num_cpus": 4}, 4)),
        ([{"CPU": 2.0}, {"CPU": 9.0}, {}], 4, (4, {"num_cpus": 2}, 2)),
        ([{"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}], None, (2, {"num_cpus": 1, "num_gpus": 1}, None)),
        ([{"CPU": 8.0, "TPU": 4.0, "TPU-v5e-8-head": 1.0}], 2, (2, {"num_cpus": 1, "resources": {"TPU": 1}}, None)),
    ],
)
def test_shares(nodes, workers, share):
    assert engines.worker_share(nodes, workers) == share


def test_workers_take_different_cores(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    restricted = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda tid, cores: restricted.append((tid, cores)), raising=False)
    first, second = take_cores(2), take_cores(2)
    assert [tuple(cores) for tid, cores in restricted if tid == os.getpid()] == [(0, 1), (2, 3)]
    restricted.clear()
    assert take_cores(2) == [] and not restricted  # one is free
    for lock in first:
        lock.release()
    third = take_cores(3)
    assert {tuple(cores) for _, cores in restricted} == {(0, 1, 4)}
    for lock in second + third:
        lock.release()


def test_without_ray(folder, source, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["--input", str(source.path), "--output", f"{tmp_path}/out/", "--engine", "ray"]
    assert main(["embed", folder, *words]) == 2
    error = capsys.readouterr().err
    assert error == "jaxencoder: engine ray needs Ray, which is not installed; pip install 'jaxencoder[ray]'\n"


# Ray Data sets settings of its own that it has deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
def test_a_pipeline_of_ray_data(ray, folder):  # noqa: F811
    """Embedder is all that a user's own pipeline needs."""
    data = importlib.import_module("ray.data")
    data.DataContext.get_current().enable_progress_bars = False
    texts = [row["text"] for row in records(0, 30)]
    dataset = data.from_items([{"n": i, "text": text} for i, text in enumerate(texts)])
    pool = data.ActorPoolStrategy(size=1)
    embedded = dataset.map_batches(
        Embedder, fn_constructor_kwargs={"model": folder, "columns": ["n"]}, batch_size=30, compute=pool
    )
    rows = sorted(embedded.take_all(), key=lambda row: row["n"])
    assert [row["n"] for row in rows] == list(range(30)) and set(rows[0]) == {"n", "embedding"}
    vectors = Embedder(folder)({"text": np.array(texts)})["embedding"]
    np.testing.assert_allclose(np.stack([row["embedding"] for row in rows]), vectors, atol=2e-5)
