import asyncio
import threading

import pytest

from jaxencoder.inference.model import OpenedModel
from jaxencoder.serving.app import create_app
from jaxencoder.serving.config import ServerConfig
from jaxencoder.serving.gate import Gate
from jaxencoder.serving.service import Service

from .conftest import TEXTS, hold, wait_until


def test_health_and_page(client):
    for path in ("/health", "/ping", "/"):
        assert client.get(path).status_code == 200 and client.get(path).content == b""
    page = client.get("/", headers={"accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html") and "Similarity of sentences" in page.text


def test_an_engine_that_stopped_is_unhealthy(models):
    from fastapi.testclient import TestClient

    service = Service({"embedding": models["embedding"]})
    with TestClient(create_app(service)) as client:
        assert client.get("/health").status_code == 200
    reply = client.get("/health")
    assert reply.status_code == 503 and reply.json()["error_type"] == "Unhealthy"
    reply = client.post("/embed", json={"inputs": "a"})
    assert reply.status_code == 503 and "shuts down" in reply.json()["error"]


def test_metrics(serve):
    client = serve()
    client.post("/embed", json={"inputs": TEXTS})
    client.post("/embed", json={"inputs": "a", "dimensions": 999})
    client.post("/embed", json={"inputs": 5})
    text = client.get("/metrics").text
    for line in (
        "te_request_count 3.0",
        "te_request_success 1.0",
        'te_request_failure{err="Validation"} 2.0',
        "te_embed_count 3.0",
        "te_request_duration_count 1.0",
        "te_request_queue_duration_count 1.0",
        "te_queue_size 0.0",
    ):
        assert f"\n{line}\n" in text
    assert f"te_batch_next_size_sum {len(TEXTS) + 1}.0" in text


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "sentence"),
    [
        ("POST", "/embed", b"{", 400, "not valid JSON"),
        ("POST", "/embed", b"[" * 100_000, 400, ""),
        ("POST", "/embed", b"\xff", 400, ""),
        ("POST", "/embed", b'{"inputs": "a\\ud800"}', 422, "lone surrogate"),
        ("POST", "/embed", b"", 422, ""),
        ("POST", "/embed", b"[1]", 422, "no JSON object"),
        ("POST", "/", b"[1]", 422, "no JSON object"),
        ("POST", "/nothing", b"{}", 404, "there is no /nothing"),
        ("GET", "/embed", b"", 405, "/embed takes no GET"),
        ("DELETE", "/embed", b"", 405, "/embed takes no DELETE"),
    ],
)
def test_requests_that_are_none(client, method, path, content, status, sentence):
    reply = client.request(method, path, content=content, headers={"content-type": "application/json"})
    assert reply.status_code == status and sentence in reply.json()["error"] and reply.json()["error_type"]


def test_a_body_that_does_not_say_that_it_is_json(client):
    reply = client.post("/embed", content=b'{"inputs": "a"}')
    assert reply.status_code == 422 and "the header Content-Type: application/json" in reply.json()["error"]


def test_a_key(serve):
    client = serve(api_key="secret")
    for path in ("/health", "/metrics"):
        assert client.get(path).status_code == 200
    for headers in ({}, {"authorization": "secret"}, {"authorization": "Bearer secre"}, {"authorization": "Bearer é"}):
        headers = {name: value.encode() for name, value in headers.items()}
        for reply in (
            client.get("/info", headers=headers),
            client.post("/embed", json={"inputs": "a"}, headers=headers),
        ):
            assert reply.status_code == 401 and reply.json()["error_type"] == "Unauthorized"
    assert client.post("/embed", json={"inputs": "a"}, headers={"authorization": "Bearer secret"}).status_code == 200


def test_pages_of_other_origins(serve):
    """Browsers may read what the server sends to pages that are named, refusals too, and nothing else."""
    page, allows = "https://a.example", "access-control-allow-origin"
    client = serve(api_key="secret", cors_allow_origin=(page, "http://b.example:8080"))
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, content-type"}
    reply = client.options("/embed", headers=asks | {"origin": page})  # brings no key
    assert reply.status_code == 200 and reply.headers[allows] == page
    assert client.options("/embed", headers=asks | {"origin": "https://c.example"}).status_code == 400
    for origin, allowed in (
        (page, page),
        ("http://b.example:8080", "http://b.example:8080"),
        ("https://c.example", None),
    ):
        for key, status in (("secret", 200), ("another", 401)):
            headers = {"origin": origin, "authorization": f"Bearer {key}"}
            reply = client.post("/embed", json={"inputs": "a"}, headers=headers)
            assert reply.status_code == status and reply.headers.get(allows) == allowed
    assert serve(cors_allow_origin=("*",)).get("/health", headers={"origin": page}).headers[allows] == "*"
    assert allows not in serve().get("/health", headers={"origin": page}).headers


@pytest.mark.parametrize(
    "origin", ["a.example", "https://a.example/", "https://A.example", "ftp://a.example", "null", ""]
)
def test_an_origin_that_is_none(origin):
    with pytest.raises(ValueError, match="cors_allow_origin is .*; give origins such as"):
        ServerConfig(cors_allow_origin=(origin,))


def test_a_body_that_is_too_large(serve):
    client = serve(payload_limit=100)
    assert client.post("/embed", json={"inputs": "a" * 80}).status_code == 200
    for content in (b'"' + b"a" * 100, iter([b"a" * 60, b"a" * 60])):  # with and without a Content-Length
        reply = client.post("/embed", content=content)
        assert reply.status_code == 413 and "larger than 100 bytes" in reply.json()["error"]


def test_more_requests_than_allowed(serve, monkeypatch):
    client = serve(max_concurrent_requests=1)
    started, released = hold(monkeypatch)
    replies = []
    thread = threading.Thread(target=lambda: replies.append(client.post("/embed", json={"inputs": "a"})))
    thread.start()
    assert started.wait(60)
    reply = client.post("/embed", json={"inputs": "a"})
    assert reply.status_code == 429 and reply.json()["error_type"] == "Overloaded"
    assert client.get("/health").status_code == 200
    released.set()
    thread.join()
    assert replies[0].status_code == 200 and client.post("/embed", json={"inputs": "a"}).status_code == 200


def test_a_request_that_takes_too_long(serve, monkeypatch):
    client = serve(request_timeout=0.2)
    _, released = hold(monkeypatch)
    reply = client.post("/embed", json={"inputs": "a"})
    released.set()
    assert reply.status_code == 504 and reply.json()["error_type"] == "Timeout"


LONG_REPLY = bytes(range(256)) * 1000


async def long_reply(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": LONG_REPLY})


def test_a_long_reply_is_sent_in_parts(service):
    end = {"type": "http.request", "body": b"", "more_body": False}
    start, *parts = exchange(Gate(long_reply, service), [end])
    assert start["status"] == 200 and len(parts) == 4
    assert [part["more_body"] for part in parts] == [True, True, True, False]
    assert b"".join(part["body"] for part in parts) == LONG_REPLY


def test_a_client_that_does_not_read(models):
    """It holds its place until the time-out, and no longer."""
    service = Service({"embedding": models["embedding"]}, ServerConfig(request_timeout=0.1))
    end = {"type": "http.request", "body": b"", "more_body": False}
    assert len(exchange(Gate(long_reply, service), [end], reads=3)) == 3
    assert service.requests == 0
    service.close()


def test_an_error_of_ours_names_no_text(serve, monkeypatch):
    client = serve()

    def broken(*args):
        raise RuntimeError("a secret")

    monkeypatch.setattr(OpenedModel, "run", broken)
    reply = client.post("/embed", json={"inputs": "a"})
    assert reply.status_code == 424 and "secret" not in reply.text and "RuntimeError" in reply.text


def exchange(app, messages, headers=(), reads=1000) -> list[dict]:
    """What an application sends to a client with these messages, which reads so many parts.

    None among the messages is silence, and a function is what the client waits for.
    """
    sent, waiting = [], iter(messages)

    async def receive():
        message = next(waiting, None)
        if callable(message):
            await asyncio.to_thread(message)
            message = next(waiting, None)
        if message is None:
            await asyncio.sleep(60)
        return message

    async def send(message):
        if len(sent) == reads:
            await asyncio.sleep(60)
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/embed", "raw_path": b"/embed", "query_string": b""}
    scope |= {"headers": list(headers), "http_version": "1.1", "scheme": "http", "server": ("host", 80)}
    asyncio.run(app(scope | {"client": ("client", 1), "root_path": ""}, receive, send))
    return sent


def test_a_slow_body(models):
    service = Service({"embedding": models["embedding"]}, ServerConfig(body_timeout=0.1))
    first = {"type": "http.request", "body": b'{"inputs":', "more_body": True}
    start, _ = exchange(create_app(service), [first, None])
    assert start["status"] == 408
    assert 'te_request_failure{err="Timeout"} 1.0' in service.metrics.text().decode()
    service.close()


def test_parts_of_a_body_that_are_too_large_together(models):
    service = Service({"embedding": models["embedding"]}, ServerConfig(payload_limit=100))
    part = {"type": "http.request", "body": b"a" * 60, "more_body": True}
    start, _ = exchange(create_app(service), [part, part])
    assert start["status"] == 413
    service.close()


def test_a_place_is_for_a_request_that_has_arrived(models):
    """While a slow client sends, others may take all places."""
    service = Service({"embedding": models["embedding"]}, ServerConfig(max_concurrent_requests=1))

    def slowly():
        yield {"type": "http.request", "body": b'{"inputs":', "more_body": True}
        assert service.requests == 0
        service.requests = 1
        yield {"type": "http.request", "body": b'"a"}', "more_body": False}

    start, _ = exchange(create_app(service), slowly())
    assert start["status"] == 429 and service.requests == 1
    service.close()


def test_a_client_that_goes_before_the_end_of_its_body(models):
    service = Service({"embedding": models["embedding"]}, ServerConfig(max_concurrent_requests=1))
    first = {"type": "http.request", "body": b'{"inputs":', "more_body": True}
    assert exchange(create_app(service), [first, {"type": "http.disconnect"}]) == []
    service.close()


def test_a_client_that_goes(models, monkeypatch):
    """Its texts leave the queue, and nobody waits for it."""
    service = Service({"embedding": models["embedding"]})
    started, released = hold(monkeypatch)
    busy = threading.Thread(target=service.deployments["embedding"].embed, args=(TEXTS,))
    busy.start()
    assert started.wait(60)
    body = {"type": "http.request", "body": b'{"inputs": "a"}', "more_body": False}
    headers = [(b"content-type", b"application/json")]
    messages = [body, lambda: wait_until(lambda: service.engine.queue_size), {"type": "http.disconnect"}]
    assert exchange(create_app(service), messages, headers) == []
    assert service.engine.queue_size == service.requests == 0
    released.set()
    busy.join()
    service.close()


def test_the_document_names_every_route(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert paths.keys() >= {"/embed", "/v1/embeddings", "/v2/rerank", "/health"}
    assert client.get("/api-doc/openapi.json").json() == client.get("/openapi.json").json()
