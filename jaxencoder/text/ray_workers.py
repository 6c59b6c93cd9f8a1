"""Tokenizes batches of texts by tasks of Ray, on this machine or on a cluster, and gives the results in order."""

import collections
import functools
import itertools
import tempfile
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

from jaxencoder.ray_cluster import connected
from jaxencoder.text.messages import first_line
from jaxencoder.text.pieces import Pieces
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

Files = tuple[tuple[str, bytes], ...]  # of a saved tokenizer: relative paths and contents


def encode(tokenizer: Tokenizer, tasks: Iterable[tuple], workers: int) -> Generator[Pieces, None, None]:
    """The pieces of each task, in the order of the tasks; a single task is not sent to Ray.

    Args:
        tokenizer: sent once to each machine, and loaded once by each process.
        tasks: tuples (function, *arguments), called as function(tokenizer, *arguments). The functions' modules must not
            import jax.
        workers: tasks that are under way at once, so that a slow consumer holds the source back. 0: two for each CPU.

    Raises:
        ValueError: Ray is not installed.
        OSError: no cluster answers, or a process dies again and again.
    """
    tasks = iter(tasks)
    first = list(itertools.islice(tasks, 2))
    if len(first) < 2:
        yield from (function(tokenizer, *arguments) for function, *arguments in first)
        return
    with connected("data.engine ray") as (ray, stays_connected):
        files, task = ray.put(_files(tokenizer)), ray.remote(_encode_task)
        limit = workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        pending = collections.deque()
        try:
            for function, *arguments in itertools.chain(first, tasks):
                if len(pending) >= limit:
                    yield _result(ray, pending.popleft())
                pending.append(task.remote(files, function, *arguments))
            while pending:
                yield _result(ray, pending.popleft())
        finally:
            for reference in pending if stays_connected else ():
                ray.cancel(reference)


def _result(ray, reference) -> Pieces:
    try:
        result = ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        problem = f"a tokenizing process of Ray died, often for lack of memory ({first_line(error)})"
        raise OSError(f"{problem}; set data.workers to fewer tasks at once") from error
    if isinstance(result, Exception):
        raise result
    return result


def _encode_task(files: Files, function: Callable[..., Pieces], *arguments) -> Pieces | ValueError:
    """Runs in a process of Ray. A mistake is returned: Ray would add pages to what is raised."""
    try:
        return function(_load(files), *arguments)
    except ValueError as error:
        return ValueError(str(error))


@functools.lru_cache(1)
def _load(files: Files) -> Tokenizer:
    with tempfile.TemporaryDirectory(prefix="jaxencoder-") as folder:
        for name, content in files:
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return Tokenizer.load(folder)


def _files(tokenizer: Tokenizer) -> Files:
    with tempfile.TemporaryDirectory(prefix="jaxencoder-") as folder:
        tokenizer.save(folder)
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return tuple((path.relative_to(folder).as_posix(), path.read_bytes()) for path in paths)
