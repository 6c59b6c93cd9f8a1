"""Clients that send nonsense, slowly, or half of it, harm no other; whatever is sent, the server does not fail."""

import contextlib
import http.client
import json
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import pytest

from .conftest import TEXTS

HEAD = b"POST /embed HTTP/1.1\r\nHost: host\r\nContent-Type: application/json\r\n"
HOSTILE = {
    "no HTTP": b"\x16\x03\x01\x00\xa5\x01\x00",
    "broken JSON": HEAD + b'Content-Length: 12\r\n\r\n{"inputs": "',
    "half a body": HEAD + b'Content-Length: 5000\r\n\r\n{"inputs": "a',
    "half a head": b"POST /embed HTTP/1.1\r\nHost: ho",
    "an unfinished chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nfff\r\n{",
    "a chunk of no size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{",
    "a body that is too large": HEAD + b"Content-Length: 99999999999\r\n\r\n{",
    "a negative length": HEAD + b"Content-Length: -5\r\n\r\n{}",
    "deep JSON": HEAD + b"Content-Length: 20000\r\n\r\n" + b"[" * 20000,
    "numbers for texts": HEAD + b'Content-Length: 17\r\n\r\n{"inputs": [1e9]}',
    "a whole request": HEAD + b'Content-Length: 15\r\n\r\n{"inputs": "a"}',  # whose answer is not read
}


def test_hostile_clients_harm_no_other(address, service, models):
    """240 of them and 60 others, at once."""
    expected = models["embedding"].embed(TEXTS, prompt="", normalize=True)
    place, kinds = urlsplit(address), random.Random(0)

    def attack(number: int) -> None:
        with socket.create_connection((place.hostname, place.port), timeout=1) as connection:
            connection.sendall(kinds.choice([*HOSTILE.values()]))
            if number % 3 == 0:
                with contextlib.suppress(TimeoutError, ConnectionError):
                    connection.recv(100)  # others leave at once

    def attack_patiently(content: bytes) -> None:
        with socket.create_connection((place.hostname, place.port), timeout=0.2) as connection:
            connection.sendall(content)
            with contextlib.suppress(TimeoutError):
                assert b" 500 " not in connection.recv(100)

    def ask(number: int) -> None:
        client = http.client.HTTPConnection(place.hostname, place.port, timeout=120)
        text = number % len(TEXTS)
        client.request("POST", "/embed", json.dumps({"inputs": TEXTS[text]}), {"Content-Type": "application/json"})
        reply = client.getresponse()
        assert reply.status == 200
        np.testing.assert_allclose(json.loads(reply.read())[0], expected[text], atol=1e-6)
        client.close()

    with ThreadPoolExecutor(40) as threads:
        for content in HOSTILE.values():
            threads.submit(attack_patiently, content).result()
        answers, attacks = [], []
        for number in range(300):
            if number % 5 == 0:
                answers.append(threads.submit(ask, number))
            else:
                attacks.append(threads.submit(attack, number))
        for done in [*answers, *attacks]:
            done.result()
    assert service.is_healthy


def test_generated_requests(address):
    """Requests that fit and that break the OpenAPI document."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    statuses = set()
    for operation in schema.get_all_operations():

        @given(case=operation.ok().as_strategy())
        @settings(max_examples=8, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        def check(case):
            statuses.add(case.call().status_code)

        check()
    assert statuses <= {200, 400, 404, 405, 413, 415, 422, 424} and 200 in statuses
