"""Engines: who calls the worker. Each yields the shards of parts as they are made."""

from collections.abc import Iterator, Sequence

from jaxencoder.bulk.plan import Part
from jaxencoder.bulk.worker import Job, Made, Worker


def run(job: Job, parts: Sequence[Part]) -> Iterator[Made]:
    """Make the shards of parts by the engine of the job's settings."""
    return run_in_process(job, parts)


def run_in_process(job: Job, parts: Sequence[Part]) -> Iterator[Made]:
    """One worker, in this process, in order."""
    yield from map(Worker(job), parts)
