"""Stopping on SIGTERM: save after the current step, then exit."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Interrupted(SystemExit):
    """SIGTERM arrived and the state is saved. The exit code is that of a process ended by the signal."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class SigtermHandler:
    """A context that records SIGTERM, so that the loop can ask after each step; all processes agree on the step.

    Schedulers often signal twice, so a second SIGTERM does not end the save; Ctrl-C does. A signal after the last
    question raises Interrupted on leaving the context, so that nothing else begins.
    """

    def __enter__(self) -> "SigtermHandler":
        self._received = False
        # With several processes jax listens to the signal itself; only the main thread may set a handler.
        self._listens = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
        if self._listens:
            self._previous = signal.signal(signal.SIGTERM, self._record)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._listens:
            signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)
        if self._received and error is None:
            raise Interrupted

    def _record(self, *_: object) -> None:
        self._received = True

    def should_stop(self, step: int) -> bool:
        """Whether to save and stop after this step. Every process must ask once per step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._received
