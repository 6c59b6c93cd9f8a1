"""What a request passes before it is read: the key, the number of requests, the size and time of its body.

A request whose client has gone is cancelled.
"""

import asyncio
import contextlib
import hmac
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxencoder.serving.errors import ServingError
from jaxencoder.serving.service import Service

PUBLIC = ("/", "/health", "/ping", "/metrics", "/docs", "/openapi.json", "/api-doc/openapi.json")  # for GET
_PART = 1 << 16  # bytes
_OPENAI = ("/v1/", "/embeddings")


class _SlowReader(Exception):
    """The client has not read its reply in time."""


class Gate:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, service: Service):
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        service = self._service
        try:
            self._check_key(scope)
            if scope["method"] != "POST":
                await self._app(scope, receive, send)
                return
            self._check_load()
            body = await self._body(scope, receive)
            if body is None:
                return
            self._check_load()  # a client that sends slowly holds no place until its request is complete
            service.requests += 1
            try:
                await self._run(scope, body, receive, send)
            finally:
                service.requests -= 1
        except ServingError as error:
            service.metrics.failure(scope["path"].strip("/"), error.type)
            await _send_error(scope, send, error)

    def _check_load(self) -> None:
        if self._service.requests >= self._service.config.max_concurrent_requests:
            raise ServingError("Overloaded", "the server has as many requests as it takes; try again later")

    def _check_key(self, scope: Scope) -> None:
        key = self._service.config.api_key
        if not key or (scope["method"] in ("GET", "HEAD") and scope["path"] in PUBLIC):
            return
        authorization = dict(scope["headers"]).get(b"authorization", b"")
        # Compared as a whole, so that the time tells nothing of the key.
        if not hmac.compare_digest(authorization, b"Bearer " + key.encode()):
            raise ServingError("Unauthorized", "the request has no valid key; send Authorization: Bearer KEY")

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None if the client goes before its end."""
        config, parts, size = self._service.config, [], 0
        too_large = ServingError(
            "Validation", f"the body is larger than {config.payload_limit} bytes; send fewer texts", status=413
        )
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and (len(length) > 18 or int(length) > config.payload_limit):
            raise too_large
        try:
            async with asyncio.timeout(config.body_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    if (size := size + len(parts[-1])) > config.payload_limit:
                        raise too_large
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            problem = f"the body did not arrive within {config.body_timeout:g} seconds"
            raise ServingError("Timeout", problem, status=408) from None

    async def _run(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Answer, unless the client goes before."""
        is_read = False

        async def read() -> Message:
            nonlocal is_read
            if is_read:
                return {"type": "http.disconnect"}
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        answer = asyncio.ensure_future(self._app(scope, read, self._paced(send)))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not answer.done():
                answer.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)
        with contextlib.suppress(asyncio.CancelledError, _SlowReader):
            answer.result()

    def _paced(self, send: Send) -> Send:
        """Sends a long reply in parts, each once the client has read enough, so that no replies pile up in memory."""

        async def send_parts(message: Message) -> None:
            body = message.get("body", b"")
            if message["type"] != "http.response.body" or len(body) <= _PART:
                await send(message)
                return
            try:
                async with asyncio.timeout(self._service.config.request_timeout):
                    for start in range(0, len(body), _PART):
                        is_last = start + _PART >= len(body)
                        more = message.get("more_body", False) if is_last else True
                        await send({**message, "body": body[start : start + _PART], "more_body": more})
            except TimeoutError:
                raise _SlowReader from None

        return send_parts


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def error_body(path: str, error: ServingError) -> dict[str, Any]:
    """The body of an error, on OpenAI's routes as text-embeddings-inference has it there."""
    if path.startswith(_OPENAI):
        return {"message": error.message, "code": error.status, "type": error.type}
    return {"error": error.message, "error_type": error.type}


async def _send_error(scope: Scope, send: Send, error: ServingError) -> None:
    headers = [(b"content-type", b"application/json")]
    if error.status in (408, 413):
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status == 429:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": orjson.dumps(error_body(scope["path"], error))})
