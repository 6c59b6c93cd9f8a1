"""The web application: routes, and the errors that clients get."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from jaxencoder.serving.errors import STATUS, ServingError
from jaxencoder.serving.gate import Gate, error_body
from jaxencoder.serving.openai import OpenAI
from jaxencoder.serving.others import OtherServers
from jaxencoder.serving.service import Service
from jaxencoder.serving.status import Status
from jaxencoder.serving.tei import TextEmbeddingsInference, reply
from jaxencoder.version import __version__

_DESCRIPTIONS = {status: type for type, status in STATUS.items() if type != "Tokenizer"} | {413: "Validation"}


def create_app(service: Service) -> FastAPI:
    """The application of a service, whose engine stops when the application does."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    content = {"application/json": {"schema": {"type": "object"}}}
    responses: Any = {status: {"description": name, "content": content} for status, name in _DESCRIPTIONS.items()}
    middleware = [Middleware(Gate, service=service)]
    if origins := service.config.cors_allow_origin:
        headers = ["Authorization", "Content-Type"]
        # Outermost, so that browsers may also read refusals, and need no key to ask what is allowed.
        cors = Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=headers)
        middleware.insert(0, cors)
    app = FastAPI(
        title="jaxencoder",
        version=__version__,
        lifespan=lifespan,
        middleware=middleware,
        responses=responses,
        redoc_url=None,
    )
    app.state.metrics = service.metrics
    for routes in (Status, TextEmbeddingsInference, OpenAI, OtherServers):
        app.include_router(routes(service).router)
    for kind, handle in {
        ServingError: _serving_error,
        RequestValidationError: _invalid_body,
        ValidationError: _invalid_body,
        ValueError: _value_error,
        HTTPException: _http_error,
    }.items():
        app.add_exception_handler(kind, handle)
    return app


async def _serving_error(request: Request, error: Any) -> Response:
    path = request.scope["path"]
    request.app.state.metrics.failure(path.strip("/"), error.type)
    body = reply(error_body(path, error)).body
    return Response(body, error.status, media_type="application/json")


async def _value_error(request: Request, error: Exception) -> Response:
    return await _serving_error(request, ServingError("Validation", " ".join(str(error).split())))


async def _invalid_body(request: Request, error: Any) -> Response:
    errors = error.errors()
    if errors[0]["type"] == "json_invalid":
        return await _serving_error(request, ServingError("Validation", "the body is not valid JSON", status=400))
    return await _serving_error(request, ServingError("Validation", _sentence(errors)))


async def _http_error(request: Request, error: Any) -> Response:
    path = request.scope["path"]
    sentences = {404: f"there is no {path}; see /docs", 405: f"{path} takes no {request.method}; see /docs"}
    kind = "NotFound" if error.status_code in sentences else "Validation"
    message = sentences.get(error.status_code, str(error.detail))
    return await _serving_error(request, ServingError(kind, message, status=error.status_code))


def _sentence(errors: Any) -> str:
    """What pydantic says of the first field that is wrong."""
    error = errors[0]
    if error["type"] in ("model_attributes_type", "dict_type") and len(error["loc"]) == 1:
        return "the body is no JSON object; send one, with the header Content-Type: application/json"
    place = [part for part in error["loc"] if part != "body"]
    name = str(place[0]) if place else "the body"
    if error["type"] == "extra_forbidden":
        return f"`{'.'.join(map(str, place))}` is no field of this request; leave it out"
    if error["type"] == "missing":
        return f"`{'.'.join(map(str, place))}` is missing"
    # Of a field with several types, one for each.
    reasons = dict.fromkeys(x["msg"].removeprefix("Input should be ") for x in errors if name in x["loc"])
    return f"`{name}` is wrong at {error['input']!r:.60}: it should be {', or '.join(reasons)}"
