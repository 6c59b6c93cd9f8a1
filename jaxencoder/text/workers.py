"""Tokenises batches of texts in several processes and gives the results in order.

A worker is `python -m jaxencoder.text.workers FOLDER_OF_TOKENIZER`, fed through its standard input. Unlike
multiprocessing's spawn it never imports the caller's main module: no guard is needed in scripts, jax is not loaded, and
a worker whose parent is killed reads the end of its input and leaves.
"""

import collections
import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from jaxencoder.tasks.multiple_choice.data import choices
from jaxencoder.tasks.question_answering.data import spans
from jaxencoder.text.pairs import sentence_pairs
from jaxencoder.text.pieces import Pieces, documents, examples, windows
from jaxencoder.text.tokenizer import Tokenizer
from jaxencoder.text.words import labeled_words

_MAKERS = {
    "documents": documents,
    "examples": examples,
    "windows": windows,
    "pairs": sentence_pairs,
    "words": labeled_words,
    "spans": spans,
    "choices": choices,
}


def _encode(tokenizer: Tokenizer, task: tuple) -> Pieces:
    maker, *arguments = task
    return _MAKERS[maker](tokenizer, *arguments)


def encode(tokenizer: Tokenizer, tasks: Iterable[tuple], workers: int) -> Iterator[Pieces]:
    """The pieces of each task, in the order of the tasks.

    A task is the name of one of the functions of _MAKERS, and what it takes besides the tokenizer.

    At most 2 tasks a worker are under way, so that a slow consumer holds the source back. Processes start with the
    first tasks: a source of one task starts one. With 1 worker all is done in this process.

    Raises:
        ValueError: a text that the tokenizer refuses.
        OSError: a process died, or could not be started.
    """
    if workers == 1:
        yield from (_encode(tokenizer, task) for task in tasks)
        return
    with tempfile.TemporaryDirectory(prefix="jaxencoder-") as folder:
        tokenizer.save(folder)
        pool = _Pool(folder)
        executor = ThreadPoolExecutor(workers, "tokenise")
        waiting = collections.deque()
        try:
            for task in tasks:
                waiting.append(executor.submit(pool.run, task))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.kill()
            executor.shutdown(wait=True, cancel_futures=True)


class _Pool:
    """One process a thread, started by its first task."""

    def __init__(self, folder: str):
        self._folder, self._local, self._lock = folder, threading.local(), threading.Lock()
        self._processes: list[subprocess.Popen] = []
        self._killed = False

    def run(self, task: tuple) -> Pieces:
        process = getattr(self._local, "process", None) or self._start()
        try:
            pickle.dump(task, process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            kind, result = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            raise OSError(
                f"a tokenising process died (exit status {process.returncode}), often for want of memory; "
                "set data.workers to fewer processes"
            ) from error
        if kind != "done":
            raise (ValueError if kind == "ValueError" else RuntimeError)(result)
        return Pieces(*result)

    def _start(self) -> subprocess.Popen:
        paths = os.pathsep.join(os.path.abspath(path or ".") for path in sys.path)
        with self._lock:
            if self._killed:
                raise OSError("tokenising has been stopped")
            process = subprocess.Popen(
                [sys.executable, "-m", "jaxencoder.text.workers", self._folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": paths, "TOKENIZERS_PARALLELISM": "false"},
            )
            self._processes.append(process)
        self._local.process = process
        return process

    def kill(self) -> None:
        with self._lock:
            self._killed = True
            for process in self._processes:
                process.kill()
            for process in self._processes:
                process.wait()
                for stream in (process.stdin, process.stdout):
                    with contextlib.suppress(OSError):
                        stream.close()


def _serve(folder: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers itself
    # A library that prints must not write into the stream of results.
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    tokenizer = Tokenizer.load(folder)
    while True:
        try:
            task = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = ("done", tuple(_encode(tokenizer, task)))
        except Exception as error:
            answer = ("ValueError" if isinstance(error, ValueError) else type(error).__name__, str(error))
        try:
            pickle.dump(answer, results, pickle.HIGHEST_PROTOCOL)
            results.flush()
        except BrokenPipeError:
            os._exit(0)  # the parent is gone; there is nobody to flush for


if __name__ == "__main__":
    _serve(sys.argv[1])
