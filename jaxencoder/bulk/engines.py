"""Engines: who calls the worker. Each yields the shards of parts as they are made, in any order.

On Ray, workers are actors rather than a map over a data set of Ray Data: the work is a list of small descriptions,
whose data only workers see, and actors say how often a part that kills its worker is tried again, where Ray Data would
try it forever.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxencoder.bulk.cores import take_cores
from jaxencoder.bulk.plan import Part
from jaxencoder.bulk.worker import Job, Made, Worker
from jaxencoder.ray_cluster import connected
from jaxencoder.text.messages import first_line
from jaxencoder.training.memory import keep_freed_memory

log = logging.getLogger(__name__)

_RETRIES = 3  # of a part whose worker dies
_START_SECONDS = 60  # after which workers should have started


def run(job: Job, parts: Sequence[Part]) -> Iterator[Made]:
    """Make the shards of parts by the engine of the job's settings."""
    yield from run_on_ray(job, parts) if job.config.engine == "ray" else map(Worker(job), parts)


def run_on_ray(job: Job, parts: Sequence[Part]) -> Iterator[Made]:
    """Workers of Ray, one for each device. One that dies is started again, and its part is retried.

    Raises:
        ValueError: Ray is not installed, or has fewer devices than workers; see also `Worker`.
        OSError: a part's workers have died again and again; see also `Worker`.
    """
    with connected("engine ray") as (ray, stays_connected):
        share = worker_share([node["Resources"] for node in ray.nodes() if node["Alive"]], job.config.workers)
        # Workers start when there is room for them; the first ones need not wait for the last.
        actor = ray.remote(RayWorker).options(max_restarts=-1, max_task_retries=_RETRIES, **share.options)
        workers = [actor.remote(job, share.cores) for _ in range(min(share.workers, len(parts)))]
        try:
            starting = {worker.start.remote(): worker for worker in workers}
            yield from _distributed(ray, starting, parts)
        finally:
            for worker in workers if stays_connected else ():
                ray.kill(worker)


def _distributed(ray: Any, starting: dict[Any, Any], parts: Sequence[Part]) -> Iterator[Made]:
    """Give each worker a part once it has started, and the next one when it has finished.

    A worker never has two: if it dies, it is clear at which part.
    """
    waiting, underway, has_warned = list(reversed(parts)), {}, False
    while waiting or underway:
        done, _ = ray.wait([*starting, *underway], num_returns=1, timeout=_START_SECONDS)
        if not done:
            if not underway and not has_warned:
                log.warning("No worker of Ray has started yet; the cluster may be busy, or lack what they ask for.")
                has_warned = True
            continue
        (ready,) = done
        worker, part = underway.pop(ready) if ready in underway else (starting.pop(ready), None)
        result = _result(ray, ready, part)
        if waiting:
            following = waiting.pop()
            underway[worker.make.remote(following)] = worker, following
        if result is not None:
            yield result


def _result(ray: Any, reference: Any, part: Part | None) -> Made | None:
    try:
        result = ray.get(reference)
    except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
        work = "starting" if part is None else f"embedding records {part.start} to {part.stop} of {part.file.path}"
        problem = f"workers of Ray died while {work}, often for lack of memory ({first_line(error)})"
        raise OSError(f"{problem}; set fewer workers or smaller batch_tokens") from error
    if isinstance(result, Exception):
        raise result
    return result


class Share(NamedTuple):
    """What each worker gets of a cluster."""

    workers: int
    options: dict[str, Any]  # of an actor
    cores: int | None  # None: the worker computes on an accelerator


def worker_share(nodes: Sequence[dict[str, float]], workers: int | None) -> Share:
    """One worker for each GPU or TPU chip of a cluster, or else an equal number of a node's CPUs for each.

    Args:
        nodes: the resources of each node.
        workers: their number; None: one for each device.

    Raises:
        ValueError: there are fewer devices than workers.
    """
    for name in ("GPU", "TPU", "CPU"):
        devices = [int(node.get(name, 0)) for node in nodes]
        if any(devices):
            break
    else:
        raise ValueError("the cluster of Ray has no GPU, TPU or CPU; start a node")
    count = sum(devices) if workers is None else workers
    if count > sum(devices):
        raise ValueError(f"workers is {count}, but the cluster of Ray has {sum(devices)} {name}s; give at most as many")
    if name == "CPU":
        # As many for each as there is room for: a worker is on one node.
        cores = next(x for x in range(max(devices), 0, -1) if sum(cpus // x for cpus in devices) >= count)
        return Share(count, {"num_cpus": cores}, cores)
    return Share(count, {"num_cpus": 1} | ({"num_gpus": 1} if name == "GPU" else {"resources": {name: 1}}), None)


class RayWorker:
    """An actor. Mistakes are returned rather than raised, which would bring pages of Ray's own lines with them."""

    def __init__(self, job: Job, cores: int | None):
        if cores is not None:
            self._cores = take_cores(cores)
        keep_freed_memory()
        self._worker = Worker(job)

    def start(self) -> None:
        """Return once the actor runs."""

    def make(self, part: Part) -> Made | ValueError | OSError:
        try:
            return self._worker(part)
        except ValueError as error:
            return ValueError(str(error))  # subclasses need not be pickled
        except OSError as error:
            return error
