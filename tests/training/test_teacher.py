"""Runs with the vectors of a teacher or guide: each text of a batch has its own, and a stopped run goes on."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxencoder.api import load
from jaxencoder.checkpoints.run import saved_config
from jaxencoder.config import (
    DataConfig,
    Embeddings,
    EncoderConfig,
    MaskedLM,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
)
from jaxencoder.inference import stored_vectors
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.inference.predict import predict
from jaxencoder.model.sentence import SentenceConfig
from jaxencoder.model.sparse import SparseConfig
from jaxencoder.tasks.embeddings.predict import evaluate_embeddings
from jaxencoder.tasks.embeddings.teacher import PROJECTION
from jaxencoder.text.batches import Batches
from jaxencoder.text.config import TokenizerConfig
from jaxencoder.training import teacher as module
from jaxencoder.training.loop import train
from jaxencoder.training.setup import set_up
from tests.tasks.conftest import train_tiny, write_records
from tests.training.conftest import losses

WORDS = ["red", "green", "blue", "big", "small", "cat", "dog", "bird", "runs", "sleeps"]
PROMPTED = SentenceConfig(prompts=(("query", "red: "), ("other", "blue: ")))


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder, random = tmp_path_factory.mktemp("teacher"), np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, random.integers(1, 5))) for _ in range(80)]
    pairs = [{"anchor": a, "positive": b} | {"negative": c} for a, b, c in zip(*3 * [iter(texts)], strict=False)]
    write_records(folder / "pairs.jsonl", pairs)
    write_records(folder / "single.jsonl", [{"text": text} for text in texts])
    for name, part in (("a.txt", texts[:30]), ("b.txt", texts[30:60])):
        (folder / name).write_text("\n".join(part))
    return folder


@pytest.fixture(scope="module")
def teacher(home: Path) -> str:
    data = DataConfig((str(home / "single.jsonl"),), validation_fraction=0.1)
    return str(train_tiny(home / "teacher", MaskedLM(), data, steps=0, vocab_size=60).folder)


def config(home: Path, teacher: str, *sources: str, fraction: float = 0.2, **objective) -> RunConfig:
    settings = {"loss": "mse", "teacher": teacher, "pooling": "mean"} if "guide" not in objective else {}
    return RunConfig(
        model=EncoderConfig(num_layers=1, hidden_size=16, mlp_size=16, num_heads=2, max_length=48, dropout=0.0),
        objective=Embeddings(**settings | objective),
        tokenizer=TokenizerConfig(path=f"{teacher}/tokenizer"),
        data=DataConfig(sources, text_field="anchor", pair_field="positive", row_length=48, workers=1,
                        validation_fraction=fraction, cache=str(home / "cache")),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        training=TrainingConfig(steps=4, batch_size=4, log_every=1, eval_batches=1, checkpoint_every=2,
                                tensorboard=False),
    )  # fmt: skip


def texts_of(setup, batch) -> list[tuple[str, int, int]]:
    """The first row, segment and column of each text of a batch, as decoded from its tokens."""
    texts = []
    for row, example, column in zip(*np.nonzero(batch["tuples"] >= 0), strict=True):
        segment = batch["tuples"][row, example, column]
        ids = batch["token_ids"][row][batch["segment_ids"][row] == segment + 1]
        anchor = batch["tuples"][row, example, 0]
        texts.append((tuple(ids.tolist()), row, segment, anchor, column))
    return texts


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [({}, SentenceConfig()), ({"teacher_reads": "anchor"}, PROMPTED), ({"guide": "this"}, PROMPTED)],
    ids=["each", "anchor", "guide"],
)
def test_each_text_has_its_vector(home, teacher, monkeypatch, tmp_path, objective, sentence) -> None:
    """From pairs with negatives and from aligned files, held out or not, by the prompt of anchors and of others."""
    model = dataclasses.replace(load(teacher), sentence=sentence)
    monkeypatch.setattr(module, "load", lambda name, dtype: model)
    if "guide" in objective:
        objective = {"guide": teacher}
    sources = str(home / "pairs.jsonl"), f"aligned:{home}/a.txt|{home}/b.txt"
    monkeypatch.setattr(module, "CHUNK", 16)
    setup = set_up(config(home, teacher, *sources, **objective), tmp_path / "run")
    assert setup.config.objective.teacher_size == (0 if "guide" in objective else 32)
    decode = {}  # the ids of each text of the data -> the text
    names = [json.loads(line)["text"] for line in (home / "single.jsonl").read_text().splitlines()]
    for text, encoding in zip(names, setup.tokenizer.encode_batch(names), strict=True):
        decode[tuple(encoding.ids.tolist())] = text
    assert setup.train[0][1].number == 1
    checked = 0
    for stores in (setup.train[0], setup.validation):
        batch = Batches(stores, setup.config.data, sum(map(len, stores)), shuffle=False).batch(0)
        ids_of = {(row, segment): ids for ids, row, segment, *_ in texts_of(setup, batch)}
        for ids, row, segment, anchor, column in texts_of(setup, batch):
            is_anchor = column == 0
            if objective.get("teacher_reads") == "anchor":
                ids, is_anchor = ids_of[row, anchor], True
            prompt = "query" if is_anchor and sentence.prompts else None
            (expected,) = model.embed([decode[ids]], prompt=prompt)
            np.testing.assert_allclose(batch["teacher_vectors"][row, segment], expected, atol=1e-5)
            checked += 1
        is_none = np.isnan(batch["labels"])
        assert is_none.any() and np.isnan(batch["teacher_vectors"][is_none]).all()
    assert checked == 3 * 26 + 2 * 30
    monkeypatch.setattr(stored_vectors, "embed", None)  # the cache has all vectors
    sources = [source.replace("/pairs", "/./pairs") for source in sources]  # the same rows
    again = set_up(config(home, teacher, *sources, **objective), tmp_path / "again")
    assert [store.path for store in again.train[0]] == [store.path for store in setup.train[0]]


def test_cached_vectors_are_those_of_the_texts_in_their_order(teacher, tmp_path) -> None:
    model, positions = load(teacher), np.arange(4)
    digest = stored_vectors.model_digest(model)
    for texts in (WORDS[:4], WORDS[3::-1], WORDS[:4]):
        vectors = stored_vectors.text_vectors(model, digest, texts, EmbedOptions(), tmp_path)
        np.testing.assert_allclose(vectors.take(positions), model.embed(texts), atol=1e-5)
    assert len(list(tmp_path.iterdir())) == 2


def test_single_texts_and_pairs(home, teacher, tmp_path) -> None:
    """Accuracy is that of the pairs, which alone are evaluated."""
    single = write_records(tmp_path / "single.jsonl", [{"anchor": f"{a} {b}"} for a in WORDS for b in WORDS])
    settings = config(home, teacher, single, str(home / "pairs.jsonl"))
    settings = dataclasses.replace(settings, training=dataclasses.replace(settings.training, steps=1))
    result = train(settings, tmp_path / "run")
    assert {"loss", "accuracy", "loss_single", "loss_pairs"} <= result.keys()
    metrics = evaluate_embeddings(load(tmp_path / "run"))
    assert 0 < metrics.metrics["examples"] < 26


def test_another_teacher_is_noticed(teacher) -> None:
    """By its weights, how it makes vectors, or how long its texts may be, also in the encoder of queries."""
    model = load(teacher)
    others = [dataclasses.replace(model, sentence=SentenceConfig(pooling=("cls",)))]
    others.append(dataclasses.replace(model, queries=model))
    others.append(dataclasses.replace(model, queries=others[0]))
    assert len({module._identity(x) for x in (model, *others)}) == 4


def test_a_stopped_run_goes_on(home, teacher, monkeypatch, tmp_path) -> None:
    """With the same teacher, and a projection to its size, which the model that is used later lacks."""
    settings = config(home, teacher, str(home / "single.jsonl"), fraction=0.0)
    train(settings, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "4")
    other = dataclasses.replace(load(teacher), sentence=SentenceConfig(pooling=("cls",)))
    with monkeypatch.context() as changed, pytest.raises(ValueError, match="are not those that .* because the data"):
        changed.setattr(module, "load", lambda name, dtype: other)
        train(settings, tmp_path / "stopped")
    train(settings, tmp_path / "stopped")
    assert losses(tmp_path / "stopped")[-2:] == losses(tmp_path / "run")[-2:]
    assert saved_config(tmp_path / "run").objective.teacher_size == 32
    model = load(tmp_path / "run")
    assert model.params[PROJECTION]["kernel"].shape == (16, 32) and model.embed(["a cat"]).shape == (1, 16)
    model.save(tmp_path / "published", "sentence-transformers")
    assert PROJECTION not in load(tmp_path / "published").params
    with pytest.raises(ValueError, match="this run was trained on single texts; name the field of the second"):
        list(predict(model, str(home / "single.jsonl")))
    with pytest.raises(ValueError, match="the model was trained on single texts"):
        evaluate_embeddings(model)
    with pytest.raises(ValueError, match="already holds a run with objective.teacher_reads 'each', not 'anchor'"):
        train(config(home, teacher, str(home / "single.jsonl"), fraction=0.0, teacher_reads="anchor"), tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "sentence", "message"),
    [
        ("absent", None, "objective.teacher is 'absent': "),
        ("sparse", "sparse", "objective.teacher is 'sparse': the model gives sparse vectors, which are not stored"),
    ],
)
def test_a_teacher_that_is_none(home, teacher, tmp_path, monkeypatch, name, sentence, message) -> None:
    if sentence:
        model = dataclasses.replace(load(teacher), sentence=SentenceConfig(sparse=SparseConfig()))
        monkeypatch.setattr(module, "load", lambda name, dtype: model)
    settings = config(home, teacher, str(home / "single.jsonl"))
    settings = dataclasses.replace(settings, objective=dataclasses.replace(settings.objective, teacher=name))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        set_up(settings, tmp_path / "run")
