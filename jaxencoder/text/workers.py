"""Tokenizes batches of texts in several processes and gives the results in order.

loky starts processes without importing the caller's main module, so that scripts need no guard and jax is not loaded.
https://loky.readthedocs.io
"""

import collections
import itertools
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable

from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor

from jaxencoder.text.pieces import Pieces
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

_tokenizer: Tokenizer | None = None  # set in worker processes only


def encode(tokenizer: Tokenizer, tasks: Iterable[tuple], workers: int) -> Generator[Pieces, None, None]:
    """The pieces of each task, in the order of the tasks.

    At most 2 tasks per worker are under way, so that a slow consumer holds the source back. One worker, or a single
    task, starts no process.

    Args:
        tokenizer: also loaded in each worker.
        tasks: tuples (function, *arguments), called as function(tokenizer, *arguments). The functions' modules must not
            import jax.
        workers: number of processes; OSError if one dies or cannot be started.
    """
    tasks = iter(tasks)
    first = list(itertools.islice(tasks, workers))
    tasks, workers = itertools.chain(first, tasks), len(first)
    if workers <= 1:
        yield from (function(tokenizer, *arguments) for function, *arguments in tasks)
        return
    with tempfile.TemporaryDirectory(prefix="jaxencoder-") as folder:
        tokenizer.save(folder)
        environment = {"TOKENIZERS_PARALLELISM": "false"}
        pool = ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(folder, os.getpid()), env=environment)
        pending = collections.deque()
        try:
            for task in tasks:
                pending.append(pool.submit(_encode_task, *task))
                if len(pending) >= 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            status = re.search(r"exit codes.*", str(error))
            problem = f"a tokenizing process died ({status[0] if status else error}), often for lack of memory"
            raise OSError(f"{problem}; set data.workers to fewer processes") from error
        finally:
            pool.shutdown(kill_workers=True)


def _start_worker(folder: str, parent: int) -> None:
    global _tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()
    _tokenizer = Tokenizer.load(folder)


def _exit_with(parent: int) -> None:
    """Leave soon after a parent that was killed, which cannot end its workers."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _encode_task(function: Callable[..., Pieces], *arguments) -> Pieces:
    return function(_tokenizer, *arguments)
