"""The models of a server, and the threads in which requests are answered."""

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import jax

from jaxencoder.inference.model import OpenedModel
from jaxencoder.serving.config import DEFAULT_CONFIG, ServerConfig
from jaxencoder.serving.deployment import Deployment, Kind
from jaxencoder.serving.engine import Cancelled, Engine, Ticket, current_ticket
from jaxencoder.serving.errors import ServingError
from jaxencoder.serving.metrics import Metrics

log = logging.getLogger(__name__)

T = TypeVar("T")
_MOST_THREADS = 128  # more texts than these hold fill no batch further


@dataclass(frozen=True)
class Answer(Generic[T]):
    """A result and what it cost."""

    result: T
    ticket: Ticket
    headers: dict[str, str] = field(default_factory=dict)


class Service:
    """Opened models by name, and their engine."""

    def __init__(self, models: dict[str, OpenedModel], config: ServerConfig = DEFAULT_CONFIG):
        if not models:
            raise ValueError("there is no model to serve; name at least one")
        self.config, self.metrics = config, Metrics()
        self.engine = Engine(config.max_batch_tokens, self.metrics.batch)
        self.deployments = {name: Deployment(name, model, self.engine) for name, model in models.items()}
        if config.default_prompt is not None:
            self._set_default_prompt(config.default_prompt)
        self.requests = 0  # in work or waiting
        self._threads = ThreadPoolExecutor(min(config.max_concurrent_requests, _MOST_THREADS), "request")

    @property
    def is_healthy(self) -> bool:
        return self.engine.is_alive

    def warm_up(self, progress: Callable[[int, int], object] = lambda done, total: None) -> int:
        """Compile every program for every shape of its batches; return the number of shapes."""
        for deployment in self.deployments.values():
            deployment.warm_up()
        return self.engine.warm_up(progress)

    def close(self) -> None:
        """Stop after the batch in work; other requests get an error."""
        self.engine.close()
        self._threads.shutdown(cancel_futures=True)

    def find(self, name: str | None = None, suits: Callable[[Deployment], int] = lambda model: 0) -> Deployment:
        """The model of this name, or the first of those that suit a route best.

        As in text-embeddings-inference the name does not matter where there is one model: clients have names of their
        own by default.
        """
        models = list(self.deployments.values())
        if name is not None and (name in self.deployments or len(models) > 1):
            if name not in self.deployments:
                raise ServingError("NotFound", f"model is {name!r}; this server has {', '.join(self.deployments)}")
            return self.deployments[name]
        return max(models, key=suits)

    def check_size(self, texts: int, most: int | None = None, name: str = "inputs") -> None:
        """ServingError for no texts, or more than a request may have."""
        most = most or self.config.max_client_batch_size
        if texts == 0:
            raise ServingError("Empty", f"`{name}` cannot be empty")
        if texts > most:
            raise ServingError("Validation", f"batch size {texts} > maximum allowed batch size {most}")

    def _set_default_prompt(self, prompt: str) -> None:
        embedders = {name: x for name, x in self.deployments.items() if x.kind in ("embedding", "sparse")}
        if not embedders:
            raise ValueError(f"default_prompt is {prompt!r}, but no model here embeds texts with prompts; leave it out")
        self.deployments |= {name: replace(model, default_prompt=prompt) for name, model in embedders.items()}

    async def answer(self, method: str, work: Callable[[], T], texts: Iterable[str] = ()) -> Answer[T]:
        """The result of `work`, which runs in a thread; it is given up when the client goes, or after the time-out.

        `method` names the route in the metrics, `texts` are counted in the headers.
        """
        if not self.is_healthy:
            raise ServingError("Unhealthy", "the server shuts down; try another one")
        ticket = Ticket()
        context = contextvars.copy_context()
        context.run(current_ticket.set, ticket)
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads, context.run, work)
            async with asyncio.timeout(self.config.request_timeout):
                result = await future
        except (TimeoutError, asyncio.CancelledError, Cancelled) as error:
            self.engine.cancel(ticket)
            if isinstance(error, asyncio.CancelledError):
                raise
            seconds = self.config.request_timeout
            raise ServingError(
                "Timeout", f"the request took longer than {seconds:g} seconds; send fewer texts"
            ) from None
        except ServingError:
            raise
        except ValueError as error:
            raise ServingError("Validation", " ".join(str(error).split())) from error
        except Exception as error:
            log.exception("A request failed.")
            raise ServingError("Backend", f"the request failed: {type(error).__name__}") from error
        self.metrics.success(method, ticket, time.perf_counter() - ticket.started)
        return Answer(result, ticket, _headers(ticket, sum(map(len, texts))))


def of_kind(*kinds: Kind) -> Callable[[Deployment], int]:
    """How well a model suits a route, for `Service.find`: models of the first kind best."""
    return lambda model: len(kinds) - kinds.index(model.kind) if model.kind in kinds else 0


def _headers(ticket: Ticket, characters: int) -> dict[str, str]:
    """What text-embeddings-inference says of a request; times in milliseconds."""
    times = {
        "compute-time": ticket.computing,
        "total-time": time.perf_counter() - ticket.started,
        "tokenization-time": ticket.preparation,
        "queue-time": ticket.waiting,
        "inference-time": ticket.computing,
    }
    numbers = {name: round(1000 * seconds) for name, seconds in times.items()}
    numbers |= {"compute-characters": characters, "compute-tokens": ticket.tokens}
    return {"x-compute-type": jax.default_backend()} | {f"x-{name}": str(number) for name, number in numbers.items()}
