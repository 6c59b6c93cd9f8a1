"""Training of embeddings: as in sentence-transformers, however the texts are packed and in whatever parts."""

import dataclasses
import json
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest

from jaxencoder.config import DataConfig, Embeddings, RunConfig, TrainingConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.model.sentence import Dense, SentenceConfig
from jaxencoder.objectives.objective import encode, mean
from jaxencoder.tasks.embeddings.examples import examples
from jaxencoder.tasks.embeddings.ranking import multiple_negatives_ranking
from jaxencoder.tasks.task import TrainingLabels
from jaxencoder.training.step import init_state, train_step
from tests.model.examples import BERT, FLOAT32, SMALL, Vocabulary, randomized_params, rows
from tests.objectives.comparisons import KEY, assert_close, from_transformers, loss_and_gradients

T = 36
# Texts of the examples of each row: a triplet and a pair, two pairs, a pair and a triplet, and two triplets.
LENGTHS = [[7, 5, 9, 4, 6], [8, 9, 5, 7], [9, 6, 7, 3, 4], [3, 6, 4, 8, 5, 3]]
TUPLES = [[[0, 1, 2], [3, 4, -1]], [[0, 1, -1], [2, 3, -1]], [[0, 1, -1], [2, 3, 4]], [[0, 1, 2], [3, 4, 5]]]
SCORES = [[3.0, 0.5], [1.0, 2.0], [0.2, 4.0], [2.5, 1.5]]
TWO_TEXTS = np.array([[[0, 1]]])
RATE = 0.005
EVERY_DIRECTION = ("query_to_document", "document_to_query", "query_to_query", "document_to_document")


def batch_of(seed: int = 0) -> dict[str, np.ndarray]:
    tuples, labels = np.array(TUPLES, np.int32), np.full((4, 6), np.nan, np.float32)
    np.put_along_axis(labels, tuples[..., 0], np.array(SCORES, np.float32), axis=1)
    return rows(LENGTHS, T, seed) | {"tuples": tuples, "labels": labels}


def build(config=SMALL["bert"], **settings):
    return Embeddings(**settings).build(config, FLOAT32, Vocabulary())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("settings", "name", "options"),
    [
        ({}, "MultipleNegativesRankingLoss", {}),
        ({"scale": 5.0, "directions": EVERY_DIRECTION, "pooling": "cls"}, "MultipleNegativesRankingLoss", {}),
        ({"loss": "cosent"}, "CoSENTLoss", {}),
        ({"loss": "contrastive", "pooling": "max"}, "ContrastiveLoss", {}),
    ],
    ids=lambda x: json.dumps(x) if isinstance(x, dict) else x,
)
def test_updates_equal_those_of_sentence_transformers(settings, name, options) -> None:
    """The losses of five updates from equal weights, on texts that share rows here."""
    torch = pytest.importorskip("torch")
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    objective = build(BERT, **settings)
    theirs, params = from_transformers("BertForMaskedLM", objective)
    params = jax.tree.map(np.array, params)  # torch updates its own in place
    state = init_state(objective, optax.sgd(RATE), KEY)._replace(params=params)
    update = jax.jit(partial(train_step, objective, optax.sgd(RATE)))
    torch_update = torch.optim.SGD(theirs.parameters(), RATE)
    loss_function = getattr(losses, name)(torch.nn.Identity(), **options)
    if name.startswith("Multiple"):
        loss_function.scale = settings.get("scale", 20.0)
        loss_function.directions = tuple(
            x.replace("document", "doc") for x in settings.get("directions", ["query_to_document"])
        )
    for step in range(5):
        batch = batch_of(step)
        state, metrics = update(state, batch, KEY)
        total, weight = metrics["loss"]
        columns = vectors_of(theirs, batch, settings.get("pooling", "mean"))
        if name.startswith("Multiple"):
            torch_loss = their_ranking(loss_function, columns)
        else:
            scores = torch.tensor(np.array(SCORES).ravel(), dtype=torch.float32)
            scores = (scores >= 0.5).float() if "contrastive" in name.lower() else scores
            features = [{"sentence_embedding": torch.stack(columns[i])} for i in (0, 1)]
            torch_loss = loss_function(features, scores)
        torch_update.zero_grad()
        torch_loss.backward()
        torch_update.step()
        assert float(total / weight) == pytest.approx(torch_loss.item(), rel=2e-5), step


@pytest.mark.parametrize(
    ("loss", "name", "rate", "steps"), [("margin_mse", "MarginMSELoss", 2e-5, 50), ("kl", "DistillKLDivLoss", 1e-4, 8)]
)
def test_updates_by_a_teacher(loss: str, name: str, rate: float, steps: int) -> None:
    """The losses of updates as in sentence-transformers, from equal weights; a pair without a negative has no loss."""
    torch = pytest.importorskip("torch")
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    objective = build(BERT, loss=loss, similarity="dot")
    theirs, params = from_transformers("BertForMaskedLM", objective)
    state = init_state(objective, optax.sgd(rate), KEY)._replace(params=jax.tree.map(np.array, params))
    update = jax.jit(partial(train_step, objective, optax.sgd(rate)))
    torch_update = torch.optim.SGD(theirs.parameters(), rate)
    loss_function = getattr(losses, name)(torch.nn.Identity())
    for step in range(steps):
        batch = batch_of(step % 4)
        batch["labels"] = np.random.default_rng(step).standard_normal((4, 6)).astype(np.float32)
        state, metrics = update(state, batch, KEY)
        total, weight = metrics["loss"]
        columns = vectors_of(theirs, batch, "mean")
        complete = [i for i, vector in enumerate(columns[2]) if vector is not None]
        scores = np.take_along_axis(batch["labels"], batch["tuples"].reshape(4, -1), axis=1).reshape(-1, 3)
        tensors = [torch.stack([column[i] for i in complete]) for column in columns]
        torch_loss = loss_function.compute_loss_from_embeddings(tensors, torch.tensor(scores[complete, 1:]))
        torch_update.zero_grad()
        torch_loss.backward()
        torch_update.step()
        assert float(total / weight) == pytest.approx(torch_loss.item(), rel=1e-4), step
    assert int(weight) == len(complete) == 4


def vectors_of(model, batch: dict[str, np.ndarray], pooling: str) -> list[list]:
    """The vectors of the anchors, positives and negatives; None where an example has no negative."""
    import torch

    columns = [[], [], []]
    for tuples, ids, segments in zip(batch["tuples"], batch["token_ids"], batch["segment_ids"], strict=True):
        for example in tuples:
            for column, segment in zip(columns, example, strict=True):
                if segment < 0:
                    column.append(None)
                    continue
                hidden = model.bert(torch.tensor(ids[segments == segment + 1])[None].long()).last_hidden_state[0]
                column.append({"mean": hidden.mean(0), "cls": hidden[0], "max": hidden.max(0).values}[pooling])
    return columns


def their_ranking(loss, columns: list[list]):
    """Examples without a negative get a vector of zeros, whose similarity with anything is left out."""
    import torch
    from sentence_transformers.util import cos_sim

    def similarity(a, b):
        absent = ~a.any(-1)[:, None] | ~b.any(-1)
        return cos_sim(a, b).masked_fill(absent, -torch.inf)

    loss.similarity_fct = similarity
    zeros = torch.zeros_like(columns[0][0])
    stacked = [torch.stack([zeros if x is None else x for x in column]) for column in columns]
    return loss.compute_loss_from_embeddings(stacked, None)


@pytest.mark.parametrize("settings", [{}, {"dimensions": (24, 8), "spread": 0.5, "similarity": "dot", "scale": 1.0}])
@pytest.mark.parametrize("parts", [2, 4])
def test_parts_change_nothing(parts: int, settings: dict) -> None:
    params = randomized_params(build().init)
    complete, in_parts = (loss_and_gradients(build(**settings, parts=n), params, batch_of()) for n in (1, parts))
    assert_close(in_parts, complete, 3e-6)
    assert complete[1]["accuracy"][1] == 8


def test_parts_bound_the_memory() -> None:
    """The activations of one part are kept, not those of all."""
    config = dataclasses.replace(SMALL["bert"], mlp_size=2048)
    batch = {name: np.tile(x, (8, *[1] * (x.ndim - 1))) for name, x in batch_of().items()}

    def temporary_bytes(parts: int) -> int:
        objective = build(config, parts=parts)
        params = jax.eval_shape(objective.init, KEY)
        run = jax.jit(jax.grad(lambda p, x: objective.loss(p, x, KEY, True)[0]))
        return run.lower(params, batch).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(8) < 0.4 * temporary_bytes(1)


def test_where_the_texts_stand_changes_nothing() -> None:
    """Each example in a row of its own, with more padding, has the same loss and gradients."""
    objective, packed = build(), batch_of()
    params = randomized_params(objective.init)
    single = {name: np.zeros((9, T), np.int32) for name in ("token_ids", "segment_ids", "positions")}
    single |= {"tuples": np.full((9, 2, 4), -1, np.int32), "labels": np.full((9, 5), np.nan, np.float32)}
    for number, (row, example) in enumerate((row, example) for row in range(4) for example in range(2)):
        start = 0
        for column, segment in enumerate(x for x in TUPLES[row][example] if x >= 0):
            inside = packed["segment_ids"][row] == segment + 1
            span = slice(start, start + inside.sum())
            single["token_ids"][number, span] = packed["token_ids"][row, inside]
            single["positions"][number, span] = packed["positions"][row, inside]
            single["segment_ids"][number, span] = column + 1
            single["tuples"][number, 0, column] = column
            start = span.stop
    assert_close(*(loss_and_gradients(objective, params, batch) for batch in (single, packed)))


def test_examples() -> None:
    batch = batch_of()
    vectors = np.arange(4 * 6, dtype=np.float32).reshape(4, 6, 1)
    x, mask, scores = examples(vectors, batch)
    assert x[mask][:, 0].tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22, 23]
    assert scores.tolist() == pytest.approx(np.array(SCORES).ravel().tolist())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "learned"}, "objective.pooling is 'learned', which is for classifiers"),
        ({"more_poolings": ("cls",)}, "objective.more_poolings is .*; name the first one in objective.pooling"),
        ({"projection_activation": "tanh"}, "projection_activation is tanh, but objective.projection is 0"),
        ({"default_role": "query"}, "default_role is query, but objective.towers is shared; leave it out, or set sep"),
        ({"parts": 0}, "objective.parts must be at least 1, got 0"),
        ({"dimensions": (0,)}, "objective.dimensions is .*; give positive numbers"),
        ({"directions": ("query_to_query",)}, "query_to_document"),
        ({"margin": -1.0}, "objective.margin must be at least 0, got -1.0"),
        ({"loss": "kl", "teacher_temperature": 0.0}, "teacher_temperature must be a positive number, got 0.0"),
        ({"loss": "triplet", "similarity": "dot"}, "objective.loss triplet compares distances, and dot is none"),
    ],
)
def test_invalid_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Embeddings(**settings)


def test_settings_and_data() -> None:
    data = DataConfig(text_field="anchor", pair_field="positive")
    with pytest.raises(ValueError, match="training.accumulation is 2, but the loss compares all examples of a batch"):
        RunConfig(objective=Embeddings(), data=data, training=TrainingConfig(batch_size=8, accumulation=2))
    with pytest.raises(ValueError, match="training.batch_size 8 does not divide into 3 parts"):
        RunConfig(objective=Embeddings(parts=3), data=data, training=TrainingConfig(batch_size=8))
    with pytest.raises(ValueError, match="objective.loss is cosent, which needs scores; name data.label_field"):
        Embeddings(loss="cosent").with_labels(TrainingLabels("", "tuple", ()))
    with pytest.raises(ValueError, match="objective.loss is kl, which needs a teacher's scores; name data.label_field"):
        Embeddings(loss="kl").with_labels(TrainingLabels("", "tuple", ()))
    with pytest.raises(
        ValueError, match="takes all pairs as similar, whatever their scores; leave out data.label_field"
    ):
        Embeddings().with_labels(TrainingLabels("label", "tuple", ()))
    with pytest.raises(ValueError, match="objective.margin is 2, but objective.loss ranking has none; set triplet or"):
        Embeddings(margin=2)
    with pytest.raises(
        ValueError, match="objective.mask_duplicates is False, but objective.loss kl has none; set rank"
    ):
        Embeddings(loss="kl", mask_duplicates=False)
    with pytest.raises(ValueError, match="objective.hardness is hard, and objective.hardness_strength 0.0; set both"):
        Embeddings(hardness="hard")
    with pytest.raises(ValueError, match="the model stores one prompt 'query'; give each its own name"):
        Embeddings(query_prompt="x: ", other_prompts=("query", "y: "))
    with pytest.raises(ValueError, match=r"objective.loss is triplet, but no record of data.train has a negative"):
        Embeddings(loss="triplet").with_labels(TrainingLabels("", "tuple", (), texts=2))


def test_a_source_without_negatives_has_no_triplets() -> None:
    """Such as a held-out one."""
    batch = batch_of() | {"tuples": batch_of()["tuples"][..., :2]}
    metrics = Embeddings(loss="triplet").metrics(np.ones((4, 6, 16), np.float32), batch)
    assert metrics["loss"] == (0, 0) and metrics["accuracy"][1] > 0


def test_equal_texts_are_no_negatives() -> None:
    """Rows of the same texts twice: found by their tokens, unless equal texts are to be negatives."""
    batch = {name: np.concatenate([x, x]) for name, x in batch_of().items()}
    vectors = np.random.default_rng(0).standard_normal((8, 6, 16)).astype(np.float32)
    x, mask, _ = examples(vectors, batch)
    numbers = np.arange(x.shape[0] // 2 * 3).reshape(-1, 3)
    expected = multiple_negatives_ranking(x, np.where(mask, np.concatenate([numbers, numbers]), -1))
    metrics = Embeddings().metrics(vectors, batch)
    assert mean(metrics) == pytest.approx(float(expected[0] / expected[1]), rel=1e-5)
    plain = multiple_negatives_ranking(x, mask)
    kept = Embeddings(mask_duplicates=False).metrics(vectors, batch)
    assert mean(kept) == pytest.approx(float(plain[0] / plain[1]), rel=1e-5)
    assert mean(kept) > mean(metrics) and mean(kept, "accuracy") <= mean(metrics, "accuracy")


@pytest.mark.parametrize(
    ("settings", "prompts", "default"),
    [
        ({}, ("query: ", "text: "), None),
        ({"query_prompt": "other", "document_prompt": "none"}, ("Find: ", ""), None),
        ({"query_prompt": "Search: ", "document_prompt": "Search: "}, ("Search: ", "Search: "), "query"),
    ],
)
def test_prompts(settings: dict, prompts: tuple, default: str | None) -> None:
    """Stored ones or given ones; they are the model's prompts later, and a run that is continued keeps them."""
    stored = (("query", "query: "), ("document", "text: "), ("other", "Find: "))
    chosen = Embeddings(**settings).started_from(SentenceConfig(prompts=stored, include_prompt=False))
    assert chosen.prompts == prompts and not chosen.sentence.include_prompt
    names = zip(("query", "document"), prompts, strict=True)
    assert chosen.sentence.prompts == (*(pair for pair in names if pair[1]), ("other", "Find: "))
    assert chosen.sentence.default_prompt == default
    assert Embeddings(**settings).continued_from(chosen) == chosen
    one = SentenceConfig(prompts=(("sts", "Compare: "),), default_prompt="sts")
    assert Embeddings().started_from(one).prompts == ("Compare: ", "Compare: ")
    with pytest.raises(ValueError, match="objective.query_prompt is 'absent': The model has no prompt 'absent'"):
        Embeddings(query_prompt="absent").started_from(one)


@pytest.mark.parametrize(
    "settings",
    [
        {"query_prompt": "sts", "other_prompts": ("a", "b: ")},
        {"losses": ("ranking", "cosent"), "query_prompts": ("sts", "none"), "document_prompt": "query"},
        {"loss": "batch_all_triplet", "document_prompt": "b: "},
    ],
)
def test_a_continued_run_keeps_its_prompts(settings: dict) -> None:
    """Whatever the names mean in the model that it stores; another text is seen."""
    begun = Embeddings(**settings).started_from(SentenceConfig(prompts=(("sts", "find"), ("query", "q: "))))
    assert Embeddings(**settings).continued_from(begun) == begun
    assert Embeddings(**settings | {"document_prompt": "c: "}).continued_from(begun).document_prompt == "c: "


def test_the_tower_of_other_texts() -> None:
    router = SentenceConfig(prompts=(("query", ""), ("document", "")), default_role="query")
    assert Embeddings().started_from(router).sentence == router
    assert Embeddings(towers="separate").sentence.default_role == "document"


def test_tokens_of_prompts_need_not_be_pooled() -> None:
    class Tokenizer(Vocabulary):
        special_ids = (0,)

        def encode_batch(self, texts):
            return [SimpleNamespace(ids=np.array([1] * len(text) + [0])) for text in texts]

    settings = {"query_prompt": "a:", "document_prompt": "b", "include_prompt": False}
    objective = Embeddings(**settings).build(SMALL["bert"], FLOAT32, Tokenizer())
    params, batch = randomized_params(objective.init), batch_of()
    hidden = encode(Encoder(SMALL["bert"], FLOAT32), params["encoder"], batch, KEY, False)
    expected = np.zeros((4, 6, hidden.shape[-1]), np.float32)
    for row, example, column in zip(*np.nonzero(batch["tuples"] >= 0), strict=True):
        segment = batch["tuples"][row, example, column]
        tokens = hidden[row, batch["segment_ids"][row] == segment + 1]
        expected[row, segment] = tokens[1 if column else 2 :].mean(0)
    np.testing.assert_allclose(objective.scores(params, batch, KEY, False), expected, atol=1e-5)
    loss = mean(Embeddings().metrics(expected, batch))
    assert float(objective.loss(params, batch, KEY, False)[0]) == pytest.approx(float(loss), rel=1e-5)


def test_the_initial_model_decides(caplog) -> None:
    settings = SentenceConfig(pooling=("cls",), normalize=True, similarity="dot")
    chosen = Embeddings().started_from(settings)
    assert chosen == Embeddings(pooling="cls", normalize=True, similarity="dot") and chosen.sentence == settings
    assert Embeddings(pooling="max").started_from(settings) == dataclasses.replace(chosen, pooling="max")
    assert not caplog.text
    both = SentenceConfig(pooling=("cls", "mean"), modules=(Dense(48, 4),))
    assert Embeddings().started_from(both).sentence == both
    assert Embeddings(pooling="max").started_from(both).sentence.pooling == ("max",)
