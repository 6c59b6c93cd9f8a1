"""Tiny models of each kind behind one server."""

import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("fastapi")

import uvicorn
from fastapi.testclient import TestClient

from jaxencoder.api import Model
from jaxencoder.inference.model import OpenedModel
from jaxencoder.model.cross_encoder import CrossEncoderConfig
from jaxencoder.model.multi_vector import MultiVectorConfig
from jaxencoder.model.sentence import SentenceConfig
from jaxencoder.model.sparse import SparseConfig
from jaxencoder.objectives.mlm import MaskedLM
from jaxencoder.serving.app import create_app
from jaxencoder.serving.config import ServerConfig
from jaxencoder.serving.service import Service
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.tasks.token_classification.objective import TokenClassification
from tests.inference.conftest import SENTENCES, make_model, tokenizer  # noqa: F401

PROMPTS = (("query", "the cat "), ("passage", "a mat "))
TEXTS = SENTENCES[40:52]


@pytest.fixture(scope="session")
def models(make_model) -> dict[str, Model]:  # noqa: F811
    """A model of each kind by the kind's name, and others."""
    masked = make_model(MaskedLM())
    pairs = make_model(Classification(labels=2, class_names=("0", "1")))
    data = dataclasses.replace(pairs.config.data, pair_field="pair")
    settings = SentenceConfig(prompts=PROMPTS, include_prompt=False)
    tags = ("O", "B-place", "I-place")
    values = make_model(Classification(labels=1))
    cross_encoder = CrossEncoderConfig("tanh", prompts=(("task", "the mat "),), default_prompt="task")
    towers = SentenceConfig(default_role="document", normalize=True)
    query_tower = make_model(MaskedLM(), num_layers=1)
    return {
        "embedding": dataclasses.replace(masked, sentence=settings),
        "sparse": dataclasses.replace(masked, sentence=SentenceConfig(similarity="dot", sparse=SparseConfig())),
        "multi_vector": dataclasses.replace(masked, multi_vector=MultiVectorConfig(is_only=True)),
        "reranker": dataclasses.replace(pairs, config=dataclasses.replace(pairs.config, data=data)),
        "classifier": make_model(Classification(labels=3, class_names=("bad", "fair", "good"))),
        "towers": dataclasses.replace(masked, sentence=towers, queries=query_tower),
        "cross_encoder": dataclasses.replace(
            values, config=dataclasses.replace(values.config, data=data), cross_encoder=cross_encoder
        ),
        "several_classes": make_model(Classification(class_names=("a", "b", "c"), multi_label=True, labels=3)),
        "values": values,
        "tagger": make_model(TokenClassification(tags=tags)),
    }


@pytest.fixture(scope="session")
def service(models: dict[str, Model]) -> Iterator[Service]:
    service = Service(models, ServerConfig(max_batch_tokens=256))
    yield service
    service.close()


@pytest.fixture(scope="session")
def client(service: Service) -> Iterator[TestClient]:
    # Without the lifespan, at whose end the service stops.
    yield TestClient(create_app(service))


@pytest.fixture(scope="session")
def address(service: Service) -> Iterator[str]:
    """Of a server that listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(create_app(service), log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def serve(models: dict[str, Model]) -> Iterator[Callable[..., TestClient]]:
    """A kind of model and settings -> a client of a server of its own."""
    services = []

    def start(kind: str = "embedding", **settings) -> TestClient:
        services.append(Service({kind: models[kind]}, ServerConfig(**settings)))
        return TestClient(create_app(services[-1]))

    yield start
    for service in services:
        service.close()


def hold(monkeypatch) -> tuple[threading.Event, threading.Event]:
    """The engine's next batch sets the first event and waits for the second."""
    started, released, run = threading.Event(), threading.Event(), OpenedModel.run

    def held(*args):
        started.set()
        assert released.wait(60)
        return run(*args)

    monkeypatch.setattr(OpenedModel, "run", held)
    return started, released


def wait_until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.001)
