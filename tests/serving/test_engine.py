from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from jaxencoder.inference.model import OpenedModel
from jaxencoder.serving.deployment import Deployment
from jaxencoder.serving.engine import Cancelled, Engine, Program, Ticket, current_ticket
from jaxencoder.serving.errors import ServingError
from jaxencoder.serving.truncation import Truncation
from tests.inference.conftest import SENTENCES

from .conftest import hold, wait_until

PAIRS = [(SENTENCES[i], SENTENCES[-i]) for i in range(1, 40)]


@pytest.fixture
def batches():
    return []


@pytest.fixture
def engine(batches):
    engine = Engine(256, lambda texts, tokens: batches.append((texts, tokens)))
    yield engine
    engine.close()


def test_any_mix_of_requests_gives_the_models_vectors(models, engine):
    """Many threads with texts of all lengths, in four programs."""
    embedding, reranker = (Deployment(kind, models[kind], engine) for kind in ("embedding", "reranker"))
    groups = [SENTENCES[i : i + 1 + i % 7] for i in range(0, 60, 3)]
    expected = {prompt: models["embedding"].embed(SENTENCES[:70], prompt=prompt or "") for prompt in (None, "query")}
    scores = models["reranker"].rerank("the cat", SENTENCES[:20])

    def check(number: int) -> None:
        prompt, start = ("query" if number % 2 else None), 3 * number
        vectors = embedding.embed(groups[number], prompt, normalize=False)
        np.testing.assert_allclose(vectors, expected[prompt][start : start + len(groups[number])], atol=1e-6)
        if number % 4 == 0:
            ranked = reranker.rerank("the cat", SENTENCES[:20], raw_scores=True)
            np.testing.assert_allclose([ranked[x.index] for x in scores], [x.score for x in scores], atol=1e-5)

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(check, range(len(groups))))


def test_waiting_texts_share_a_batch(models, engine, batches, monkeypatch):
    model = Deployment("model", models["embedding"], engine)
    started, released = hold(monkeypatch)
    with ThreadPoolExecutor(9) as threads:
        first = threads.submit(model.embed, SENTENCES[:1])
        assert started.wait(60)
        others = [threads.submit(model.embed, [text]) for text in SENTENCES[1:9]]
        wait_until(lambda: engine.queue_size >= 8)
        released.set()
        assert len(first.result()) == 1 and all(len(other.result()) == 1 for other in others)
    assert [texts for texts, _ in batches] == [1, 8]


def test_a_long_request_takes_several_batches(models, engine, batches):
    model = Deployment("model", models["embedding"], engine)
    vectors = model.embed(SENTENCES[:80], normalize=False)
    np.testing.assert_allclose(vectors, models["embedding"].embed(SENTENCES[:80], prompt=""), atol=1e-6)
    assert len(batches) > 1 and max(tokens for _, tokens in batches) <= 256 and sum(texts for texts, _ in batches) == 80


def test_pairs_of_several_requests_keep_their_types(models, engine, monkeypatch):
    """Arrays beside the ids, such as token types, are those of each request in a shared batch."""
    model = Deployment("model", models["reranker"], engine)
    expected = [models["reranker"].rerank(query, [text])[0].score for query, text in PAIRS]
    started, released = hold(monkeypatch)
    with ThreadPoolExecutor(40) as threads:
        first = threads.submit(model.rerank, "a", ["b"])
        assert started.wait(60)
        others = [threads.submit(model.rerank, query, [text], True) for query, text in PAIRS]
        wait_until(lambda: engine.queue_size >= len(PAIRS))
        released.set()
        first.result()
        np.testing.assert_allclose([other.result()[0] for other in others], expected, atol=1e-5)


def test_a_cancelled_request_is_dropped(models, engine, batches, monkeypatch):
    model, ticket = Deployment("model", models["embedding"], engine), Ticket()
    started, released = hold(monkeypatch)

    def embed_as(ticket: Ticket):
        current_ticket.set(ticket)
        return model.embed(SENTENCES[:2])

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(model.embed, SENTENCES[:1])
        assert started.wait(60)
        second = threads.submit(embed_as, ticket)
        wait_until(lambda: engine.queue_size)
        engine.cancel(ticket)
        with pytest.raises(Cancelled):
            second.result()
        assert engine.queue_size == 0
        released.set()
        first.result()
    assert [texts for texts, _ in batches] == [1]


def test_a_request_that_fails_fails_alone(models, engine, monkeypatch, caplog):
    model = Deployment("model", models["embedding"], engine)
    started, released = hold(monkeypatch)
    held = OpenedModel.run

    def run(self, function, ids, *args):
        if any(len(x) == 13 for x in ids):
            raise RuntimeError("out of memory")
        return held(self, function, ids, *args)

    monkeypatch.setattr(OpenedModel, "run", run)
    texts = ["the cat sat", "the " * 11, "a mat"]
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(model.embed, ["the"])
        assert started.wait(60)
        futures = [threads.submit(model.embed, [text]) for text in texts]
        wait_until(lambda: engine.queue_size >= 3)
        released.set()
        first.result()
        with pytest.raises(ServingError, match="RuntimeError") as error:
            futures[1].result()
        assert error.value.status == 424 and "out of memory" in caplog.text
        assert len(futures[0].result()) == len(futures[2].result()) == 1
    assert engine.is_alive


def test_nothing_is_compiled_after_the_warm_up(models, engine):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiled.append(name) if "backend_compile" in name else None
    )
    by_kind = {name: Deployment(name, model, engine) for name, model in models.items()}
    for deployment in by_kind.values():
        deployment.warm_up()
    assert engine.warm_up() > 20
    jax.jit(lambda x: x + 1)(np.zeros(7))
    assert compiled  # so that what follows can fail
    compiled.clear()
    for number in (1, 3, 9, 27, 80):
        texts = SENTENCES[:number]
        for prompt in (None, "query", "passage"):
            by_kind["embedding"].embed(texts, prompt, dimensions=number % 30 + 1)
            by_kind["towers"].embed(texts, prompt and prompt.replace("passage", "document"))
        by_kind["embedding"].embed(texts, truncation=Truncation(side="left"))
        by_kind["embedding"].embed_tokens(texts)
        by_kind["sparse"].embed_sparse(texts, "query")
        by_kind["multi_vector"].rerank("the cat", texts)
        by_kind["reranker"].rerank("the cat", texts)
        by_kind["cross_encoder"].rerank("the cat", texts)
        by_kind["cross_encoder"].predict(texts)
        by_kind["classifier"].predict(texts)
        by_kind["classifier"].predict(texts, texts)
        by_kind["tagger"].tag(texts)
    by_kind["embedding"].fill_mask("the [MASK] on [MASK] and [MASK]", 2)
    assert not compiled


def test_a_long_request_lets_others_go_first(models, engine, batches, monkeypatch):
    embedding, classifier = (Deployment(kind, models[kind], engine) for kind in ("embedding", "classifier"))
    started, released = hold(monkeypatch)
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(embedding.embed, SENTENCES[:1])
        assert started.wait(60)
        long = threads.submit(embedding.embed, SENTENCES[:80])
        wait_until(lambda: engine.queue_size >= 1)
        others = [threads.submit(classifier.predict, SENTENCES[:1]), threads.submit(embedding.embed, SENTENCES[:1])]
        wait_until(lambda: engine.queue_size >= 3)
        released.set()
        for result in (first, long, *others):
            result.result()
    # One batch of the long request, then the classifier's, then the rest with the other text.
    assert batches[0][0] == batches[2][0] == 1 and sum(texts for texts, _ in batches[1:]) == 82


def test_a_closed_engine_ends_its_batch_and_answers_no_more(models, monkeypatch):
    engine = Engine(256)
    model = Deployment("model", models["embedding"], engine)
    started, released = hold(monkeypatch)
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(model.embed, SENTENCES[:1])
        assert started.wait(60)
        second = threads.submit(model.embed, SENTENCES[:1])
        wait_until(lambda: engine.queue_size)
        closing = threads.submit(engine.close)
        with pytest.raises(ServingError, match="shuts down"):
            second.result()
        released.set()
        closing.result()
        assert len(first.result()) == 1
    assert not engine.is_alive
    with pytest.raises(ServingError, match="shuts down") as error:
        list(engine.run(Program(models["embedding"], lambda params, rows: 0, 64, None), [np.zeros(3, np.int32)]))
    assert error.value.status == 503
