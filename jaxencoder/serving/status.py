"""Routes on the server itself: its health, its numbers, and the page for browsers."""

from importlib import resources

from fastapi import APIRouter, Request, Response
from starlette.responses import HTMLResponse, PlainTextResponse

from jaxencoder.serving.errors import ServingError
from jaxencoder.serving.service import Service
from jaxencoder.serving.tei import reply


class Status:
    """The routes, for a service."""

    def __init__(self, service: Service):
        self._service = service
        self._page = resources.files("jaxencoder.serving").joinpath("page.html").read_text(encoding="utf-8")
        self.router = router = APIRouter(tags=["server"])
        router.get("/", response_class=HTMLResponse)(self.root)
        router.get("/metrics", response_class=PlainTextResponse)(self.metrics)
        router.get("/api-doc/openapi.json")(self.document)
        for path in ("/health", "/ping"):
            router.get(path, response_class=Response)(self.health)

    async def health(self) -> Response:
        """Whether the server can answer."""
        if not self._service.is_healthy:
            raise ServingError("Unhealthy", "the server shuts down, or its engine has failed; start it again")
        return Response(status_code=200)

    async def root(self, request: Request) -> Response:
        """A page to try the models, for browsers; for others as /health."""
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(self._page)
        return await self.health()

    async def metrics(self) -> Response:
        """Numbers for Prometheus."""
        self._service.metrics.queue_size.set(self._service.engine.queue_size)
        return Response(self._service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def document(self, request: Request) -> Response:
        """This document, where text-embeddings-inference has it."""
        return reply(request.app.openapi())
