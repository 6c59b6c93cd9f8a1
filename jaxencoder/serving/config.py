"""Settings of the server."""

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class ServerConfig:
    """Limits and defaults of the server; those of text-embeddings-inference unless said otherwise.

    Attributes:
        max_concurrent_requests: requests in work or waiting; further ones get status 429.
        max_batch_tokens: tokens of one batch on the devices, padding included. None: 1024 on a CPU, 8192 elsewhere.
        max_client_batch_size: texts of one request.
        max_openai_inputs: texts of one request to /v1/embeddings, where clients send more at once; OpenAI's limit.
        payload_limit: bytes of a request's body.
        auto_truncate: whether texts longer than the model reads are truncated, for requests that do not say.
        default_prompt: put before each text of requests to embed that name no prompt: the name of a stored prompt, or
            a text; None: the model's own default.
        api_key: that requests must bring as a bearer token; empty: none.
        cors_allow_origin: origins of web pages that may read replies, such as https://example.org, or "*" for all.
            Unlike in text-embeddings-inference, none unless named.
        request_timeout: seconds after which a request is given up.
        body_timeout: seconds in which the body of a request must arrive.
    """

    max_concurrent_requests: int = 512
    max_batch_tokens: int | None = None
    max_client_batch_size: int = 32
    max_openai_inputs: int = 2048
    payload_limit: int = 2_000_000
    auto_truncate: bool = True
    default_prompt: str | None = None
    api_key: str = ""
    cors_allow_origin: tuple[str, ...] = ()
    request_timeout: float = 60.0
    body_timeout: float = 10.0

    def __post_init__(self) -> None:
        for name in ("max_concurrent_requests", "max_client_batch_size", "max_openai_inputs", "payload_limit"):
            if (number := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {number}; give at least 1")
        if self.max_batch_tokens is not None and self.max_batch_tokens < 1:
            raise ValueError(f"max_batch_tokens is {self.max_batch_tokens}; give at least 1")
        for origin in self.cors_allow_origin:
            if origin != "*" and not _is_origin(origin):
                raise ValueError(f"cors_allow_origin is {origin!r}; give origins such as https://example.org, or *")
        for name in ("request_timeout", "body_timeout"):
            if not (seconds := getattr(self, name)) > 0:
                raise ValueError(f"{name} is {seconds}; give a number of seconds above 0")


def _is_origin(text: str) -> bool:
    """Whether a text is an origin as browsers send it: a scheme, a host and perhaps a port, in lower case."""
    parts = urlsplit(text)
    is_web = parts.scheme in ("http", "https") and parts.netloc
    return bool(is_web) and text == f"{parts.scheme}://{parts.netloc.lower()}"


DEFAULT_CONFIG = ServerConfig()
