"""The verb that serves models over HTTP."""

import os
from dataclasses import field
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from jaxencoder.cli import verb
from jaxencoder.training.memory import keep_freed_memory

_KEY = "JAXENCODER_API_KEY"


class Serve(verb.Verb):
    """Serve models over HTTP, by the routes of text-embeddings-inference, OpenAI, Cohere and vLLM.

    Example: jaxencoder serve sentence-transformers/all-MiniLM-L6-v2
    """

    models: Positional[Annotated[tuple[str, ...], arg(metavar="MODEL ...", help_behavior_hint="(required)")]]
    """Folders of runs, transformers or sentence-transformers, or hub names."""
    served_model_name: Annotated[tuple[str, ...], verb.default_is("the models as written", "NAME ...")] = ()
    """Name of each model in requests."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 for all."""
    port: Annotated[int, arg(metavar="N")] = 3000
    """Port to listen at; 0 for any free one."""
    dtype: Annotated[Literal["float32", "bfloat16"] | None, verb.default_is("float32 on a CPU, else as trained")] = None
    """Dtype of activations."""
    api_key: Annotated[str, verb.default_is(f"${_KEY}, or none")] = field(
        default_factory=lambda: os.environ.get(_KEY, "")
    )
    """Key that requests must bring as a bearer token."""
    cors_allow_origin: Annotated[tuple[str, ...], verb.default_is("none", "ORIGIN ...")] = ()
    """Origins of web pages that may read replies, such as https://example.org; * for all."""
    default_prompt: Annotated[str | None, verb.default_is("the model's own")] = None
    """Prompt of requests to embed that name none: the name of a stored one, or a text."""
    auto_truncate: bool = True
    """Truncate texts longer than the model reads, in requests that do not say."""
    max_concurrent_requests: Annotated[int, arg(metavar="N")] = 512
    """Requests in work or waiting; further ones are refused with status 429."""
    max_batch_tokens: Annotated[int | None, verb.default_is("1024 on a CPU, else 8192", "N")] = None
    """Tokens in one batch, padding included."""
    max_client_batch_size: Annotated[int, arg(metavar="N")] = 32
    """Texts of one request; 2,048 on the routes of OpenAI, Cohere and vLLM."""
    payload_limit: Annotated[int, arg(metavar="BYTES")] = 2_000_000
    """Largest body of a request."""
    request_timeout: Annotated[float, arg(metavar="SECONDS")] = 60.0
    """Time after which a request is given up."""
    warm_up: bool = True
    """Compile every program before the first request."""

    def run(self) -> None:
        if not self.models:
            raise ValueError("name a MODEL to serve")
        keep_freed_memory()
        try:
            from jaxencoder.serving.config import ServerConfig
            from jaxencoder.serving.serve import serve
        except ModuleNotFoundError as error:
            raise ValueError(f"serving needs {error.name}; install it with pip install 'jaxencoder[serve]'") from None
        names = ("api_key", "cors_allow_origin", "default_prompt", "auto_truncate", "max_concurrent_requests")
        names += ("max_batch_tokens", "max_client_batch_size", "payload_limit", "request_timeout")
        config = ServerConfig(**{name: getattr(self, name) for name in names})
        serve(self.models, self.served_model_name, config, self.host, self.port, self.dtype, self.warm_up)
