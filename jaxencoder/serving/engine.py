"""Batches of texts from all requests: one thread that runs the devices, fed by the threads of requests.

While the devices compute a batch, the texts of new requests wait; the next batch takes as many of them as one program
can compute together. Under load batches are full, without load a text waits for nothing.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from queue import SimpleQueue
from typing import Any

import numpy as np

from jaxencoder.inference.model import OpenedModel, default_batch_tokens
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.serving.errors import ServingError
from jaxencoder.text import buckets
from jaxencoder.text.buckets import BatchPlan

log = logging.getLogger(__name__)

Function = Callable[[Params, Batch], Any]
Extra = Callable[[BatchPlan], Batch] | None
Observer = Callable[[int, int], object]  # of each batch: its texts, and their tokens

_NOTHING = np.zeros(0, np.int64)
_EMPTY_PLAN = BatchPlan(_NOTHING, _NOTHING, _NOTHING, _NOTHING, rows=1, length=8)


class Cancelled(Exception):
    """The client has gone, or waited too long."""


@dataclass(eq=False)
class Ticket:
    """What one request has cost so far; seconds."""

    started: float = field(default_factory=time.perf_counter)
    tokens: int = 0
    preparation: float = 0.0  # from the start to its first text in the queue
    waiting: float = 0.0
    computing: float = 0.0
    is_cancelled: bool = False


current_ticket: ContextVar[Ticket | None] = ContextVar("current_ticket", default=None)


@dataclass(frozen=True)
class Program:
    """A compiled function and the model whose texts it reads."""

    model: OpenedModel
    function: Function
    limit: int  # maximum tokens of a text
    extra: Extra  # of the first request that used the program

    @cached_property
    def key(self) -> Hashable:
        """Equal for texts that can be computed together."""
        function = self.function
        parts = (getattr(function, "func", function), getattr(function, "args", ()))
        arrays = () if self.extra is None else tuple(sorted(self.extra(_EMPTY_PLAN)))
        return id(self.model), *parts, self.limit, arrays


@dataclass(eq=False)
class _Job:
    """The texts of one call, which may be spread over several batches."""

    program: Program
    ids: Sequence[np.ndarray]
    extra: Extra
    ticket: Ticket
    waiting: deque[int]  # indices of `ids` in no batch yet, longest first
    results: "SimpleQueue[tuple[BatchPlan, Any] | Exception]" = field(default_factory=SimpleQueue)
    added: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class _Part:
    """The texts of a job in a batch."""

    job: _Job
    texts: list[int]  # indices of the job's `ids`


class Engine:
    """The queue of texts and the thread that computes them."""

    def __init__(self, batch_tokens: int | None = None, observer: Observer = lambda texts, tokens: None):
        self.batch_tokens = batch_tokens or default_batch_tokens()
        # Those that have run before `warm_up`; not kept later, because they hold their models.
        self.programs: dict[Hashable, Program] | None = {}
        self._observer = observer
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._is_closed

    @property
    def queue_size(self) -> int:
        """Calls with texts in no batch yet."""
        return len(self._jobs)

    def run(self, program: Program, ids: Sequence[np.ndarray]) -> Iterator[tuple[BatchPlan, Any]]:
        """Compute texts in batches shared with other threads; yields as `OpenedModel.run`.

        The arrays of `program.extra` must be 0 wherever the plan that it is given has no text.

        Raises:
            Cancelled: the request was cancelled.
            ServingError: the server shuts down.
        """
        if not len(ids):
            return
        ticket = current_ticket.get() or Ticket()
        longest_first = deque(sorted(range(len(ids)), key=lambda i: -len(ids[i])))
        job = _Job(program, ids, program.extra, ticket, longest_first)
        ticket.tokens += sum(map(len, ids))
        ticket.preparation = ticket.preparation or job.added - ticket.started
        with self._changed:
            if self._is_closed:
                raise _closed()
            if ticket.is_cancelled:
                raise Cancelled
            if self.programs is not None:
                self.programs.setdefault(program.key, program)
            self._jobs.append(job)
            self._changed.notify()
        done = 0
        while done < len(ids):
            result = job.results.get()
            if isinstance(result, Exception):
                raise result
            yield result
            done += len(result[0].texts)

    def cancel(self, ticket: Ticket) -> None:
        """Drop the texts of a request that are in no batch yet."""
        with self._changed:
            ticket.is_cancelled = True
            self._drop(lambda job: job.ticket is ticket, Cancelled())

    def warm_up(self, progress: Callable[[int, int], object] = lambda done, total: None) -> int:
        """Compile the programs that have run for all shapes of batches; return how many shapes there are.

        Call it once, before there are requests.
        """
        programs, self.programs = self.programs or {}, None
        shapes = [
            (program, rows, length)
            for program in programs.values()
            for rows, length in buckets.batch_shapes(
                buckets.row_lengths(program.limit), self.batch_tokens, program.model.row_step
            )
        ]
        for done, (program, rows, length) in enumerate(shapes):
            progress(done, len(shapes))

            def extra(plan: BatchPlan, extra: Extra = program.extra) -> Batch:
                return {} if extra is None else extra(_EMPTY_PLAN._replace(rows=plan.rows, length=plan.length))

            ids = [np.zeros(length, np.int32)] * rows
            for _ in OpenedModel.run(program.model, program.function, ids, self.batch_tokens, program.limit, extra):
                pass
        progress(len(shapes), len(shapes))
        return len(shapes)

    def close(self) -> None:
        """End the thread after its batch; what waits gets an error."""
        with self._changed:
            self._is_closed = True
            self._drop(lambda job: True, _closed())
            self._changed.notify()
        self._thread.join()

    def _loop(self) -> None:
        while parts := self._next_batch():
            try:
                self._compute(parts)
            except Exception as error:
                self._compute_alone(parts, error)

    def _next_batch(self) -> list[_Part]:
        """The texts that have waited longest and others of their program; none after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._is_closed)
            parts, room, key = [], self.batch_tokens, self._jobs[0].program.key if self._jobs else None
            for job in [job for job in self._jobs if job.program.key == key]:
                texts = []
                while job.waiting and (not (parts or texts) or len(job.ids[job.waiting[0]]) <= room):
                    texts.append(job.waiting.popleft())
                    room -= len(job.ids[texts[-1]])
                if texts:
                    parts.append(_Part(job, texts))
                if texts or not job.waiting:
                    self._jobs.remove(job)
                    self._jobs.extend([job] if job.waiting else [])  # a long request lets others go first
            return parts

    def _compute(self, parts: Sequence[_Part]) -> None:
        program, start = parts[0].job.program, time.perf_counter()
        ids = [part.job.ids[i] for part in parts for i in part.texts]
        ends = np.cumsum([len(part.texts) for part in parts])
        self._observer(len(ids), sum(map(len, ids)))

        def restricted(plan: BatchPlan, number: int) -> BatchPlan:
            """The texts of a part in a plan, by their indices in its job."""
            texts = plan.texts - (ends[number] - len(parts[number].texts))
            at = (texts >= 0) & (plan.texts < ends[number])
            indices = np.asarray(parts[number].texts, np.int64)[texts[at]]
            return BatchPlan(indices, plan.row[at], plan.segment[at], plan.start[at], plan.rows, plan.length)

        def extra(plan: BatchPlan) -> Batch:
            arrays: dict[str, Any] = {}
            for number, part in enumerate(parts):
                if part.job.extra is not None:
                    for name, x in part.job.extra(restricted(plan, number)).items():
                        arrays[name] = np.maximum(arrays[name], x) if name in arrays else x
            return arrays

        runs = OpenedModel.run(program.model, program.function, ids, self.batch_tokens, program.limit, extra)
        results = [
            (part, plan_of_part, values)
            for plan, values in runs
            for number, part in enumerate(parts)
            if len((plan_of_part := restricted(plan, number)).texts)
        ]
        seconds = time.perf_counter() - start
        for part in parts:
            part.job.ticket.waiting += start - part.job.added
            part.job.ticket.computing += seconds
            part.job.added = start + seconds
        for part, plan, values in results:
            part.job.results.put((plan, values))

    def _compute_alone(self, parts: Sequence[_Part], error: Exception) -> None:
        """Compute each part of a batch that failed, so that one request cannot fail those of others."""
        for part in parts:
            try:
                if len(parts) == 1:
                    raise error
                self._compute([part])
            except Exception as error_of_part:
                log.exception("A batch failed.", exc_info=error_of_part)
                with self._changed:
                    part.job.waiting.clear()
                    if part.job in self._jobs:
                        self._jobs.remove(part.job)
                problem = f"the model could not be run: {type(error_of_part).__name__}"
                part.job.results.put(ServingError("Backend", problem))

    def _drop(self, is_dropped: Callable[[_Job], bool], error: Exception) -> None:
        for job in filter(is_dropped, list(self._jobs)):
            self._jobs.remove(job)
            job.waiting.clear()
            job.results.put(error)


def _closed() -> ServingError:
    return ServingError("Unhealthy", "the server shuts down; try another one")
