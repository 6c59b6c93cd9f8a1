"""Opening models and serving them until the process gets a signal to stop."""

import logging
import math
import socket
import sys
from collections.abc import Sequence
from typing import Literal

import uvicorn
from tqdm import tqdm

from jaxencoder.inference.load import load
from jaxencoder.serving.app import create_app
from jaxencoder.serving.config import DEFAULT_CONFIG, ServerConfig
from jaxencoder.serving.service import Service

_SWITCH_SECONDS = 0.0005  # a tenth of Python's: the thread of connections waits less for those of requests


def serve(
    models: Sequence[str],
    names: Sequence[str] = (),
    config: ServerConfig = DEFAULT_CONFIG,
    host: str = "127.0.0.1",
    port: int = 3000,
    dtype: Literal["float32", "bfloat16"] | None = None,
    warms_up: bool = True,
) -> None:
    """Serve models until SIGINT or SIGTERM; requests in work are answered first.

    Args:
        models: folders or names, as for `jaxencoder.load`.
        names: by which requests ask for them; none: the models as they are written.
        config: limits and defaults.
        host, port: where to listen; port 0 is any free one, which is printed.
        dtype: see `jaxencoder.load`.
        warms_up: compile every program before the first request.

    Raises:
        ValueError: names that do not fit the models, an address that cannot be used, or a model that cannot be opened
            or served.
        OSError: a model cannot be read.
    """
    names = names or models
    if len(names) != len(models) or len(set(names)) < len(names):
        raise ValueError(
            f"there are {len(models)} models and the names {', '.join(names)}; give each a name of its own"
        )
    # Each request would be told of its truncated texts in the log.
    logging.getLogger("jaxencoder.text.buckets").setLevel(logging.ERROR)
    sys.setswitchinterval(_SWITCH_SECONDS)
    with _bound_socket(host, port) as listener:  # before the models are opened, which takes long
        service = Service({name: load(model, dtype) for name, model in zip(names, models, strict=True)}, config)
        if warms_up:
            _warm_up(service)
        kinds = ", ".join(f"{name} ({deployment.kind})" for name, deployment in service.deployments.items())
        print(f"serving {kinds} at http://{host}:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
        app, seconds = create_app(service), math.ceil(config.request_timeout)
        settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=seconds, server_header=False)
        uvicorn.Server(settings).run([listener])


def _warm_up(service: Service) -> None:
    with tqdm(desc="Compiling", unit=" shapes", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        shapes = service.warm_up(progress)
    print(f"compiled {shapes} shapes of batches", file=sys.stderr)


def _bound_socket(host: str, port: int) -> socket.socket:
    """A socket that does not listen yet, so that clients are refused until the server is ready."""
    if not 0 <= port <= 65535:
        raise ValueError(f"port is {port}; give 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        problem = error.strerror or str(error)
        raise ValueError(
            f"the server cannot listen at {host}:{port} ({problem}); give another --port or --host"
        ) from None
    return listener
