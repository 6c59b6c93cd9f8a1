"""The fine-tuning of Hugging Face transformers in torch, from our weights, on our rows' examples, with our settings.

What `Trainer` does (transformers 5), without its bookkeeping: batches padded to their longest example, scaled
dot-product attention, the fused AdamW without decay of biases and norms, clipping, a linear schedule.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import transformers

from jaxencoder.checkpoints.transformers import open_transformers, write_model
from jaxencoder.families.published import Published, family_of
from jaxencoder.objectives.objective import Params
from jaxencoder.tasks.question_answering.objective import QuestionAnswering
from jaxencoder.tasks.token_classification.objective import TokenClassification
from jaxencoder.text.store import Store
from jaxencoder.training.config import OptimizerConfig
from jaxencoder.training.setup import Setup

Batch = dict[str, torch.Tensor]


def use_threads(threads: int) -> None:
    """Threads of torch, which take numbers below 1e-38 for 0 as XLA's do: AdamW's old moments would slow them down."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)


class Example(NamedTuple):
    """One labelled text or pair, or one with a label for each token."""

    token_ids: np.ndarray  # int32 [T], special tokens included
    token_type_ids: np.ndarray  # int32 [T]
    label: int | float | np.ndarray  # int32 [T], -1 for none


def examples(rows: dict[str, np.ndarray]) -> list[Example]:
    """The labelled examples of packed rows, in the order of the rows.

    Args:
        rows: token_ids and segment_ids [B, T], labels [B, E] or token_labels [B, T], token_type_ids [B, T] of pairs.
    """
    found = []
    types = rows.get("token_type_ids", np.zeros_like(rows["token_ids"]))
    every = rows["token_labels"] if "token_labels" in rows else rows["labels"]
    for ids, kinds, segments, labels in zip(rows["token_ids"], types, rows["segment_ids"], every, strict=True):
        for number in range(1, segments.max() + 1):
            mine = segments == number
            label = labels[mine] if "token_labels" in rows else labels[number - 1].item()
            found.append(Example(ids[mine], kinds[mine], label))
    return found


def examples_of(stores: Sequence[Store]) -> list[Example]:
    """All examples of prepared rows."""
    return [example for store in stores for example in examples(store.read(np.arange(len(store))))]


def padded(batch: Sequence[Example], spans: bool = False) -> Batch:
    """The inputs of transformers' models: each example as long as the longest.

    Args:
        spans: the labels of tokens are 0 for an answer's first one, 1 for its last one and 2 for both.
    """
    length = max(len(example.token_ids) for example in batch)
    shape = (len(batch), length)
    ids, types, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for i, (token_ids, token_type_ids, _) in enumerate(batch):
        n = len(token_ids)
        ids[i, :n], types[i, :n], mask[i, :n] = token_ids, token_type_ids, 1
    inputs = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
    if spans:
        for name, end in (("start_positions", 0), ("end_positions", 1)):
            places = [np.flatnonzero((example.label == end) | (example.label == 2)) for example in batch]
            inputs[name] = np.concatenate(places)
    elif isinstance(batch[0].label, np.ndarray):
        inputs["labels"] = np.full(shape, -100, np.int64)
        for row, example in zip(inputs["labels"], batch, strict=True):
            row[: len(example.label)] = np.where(example.label < 0, -100, example.label)
    else:
        inputs["labels"] = np.array([example.label for example in batch])
        inputs["labels"] = inputs["labels"].astype(np.float32 if inputs["labels"].dtype.kind == "f" else np.int64)
    return {name: torch.from_numpy(x) for name, x in inputs.items()}


def shuffled(given: Sequence[Example], size: int, updates: int, seed: int) -> Iterator[list[Example]]:
    """That many batches: epochs in a new order each, an epoch may end within a batch, as our batches do."""
    rng = np.random.default_rng(seed)
    waiting: list[int] = []
    for _ in range(updates):
        while len(waiting) < size:
            waiting += rng.permutation(len(given)).tolist()
        yield [given[i] for i in waiting[:size]]
        waiting = waiting[size:]


def grouped_by_length(given: Sequence[Example], size: int, seed: int) -> list[list[Example]]:
    """An epoch as `Trainer` makes it with group_by_length: 50 batches at random, those sorted by length, and so on."""
    order, mega = np.random.default_rng(seed).permutation(len(given)), 50 * size
    parts = [order[i : i + mega].tolist() for i in range(0, len(order), mega)]
    grouped = [i for part in parts for i in sorted(part, key=lambda i: -len(given[i].token_ids))]
    return [[given[i] for i in grouped[start : start + size]] for start in range(0, len(grouped), size)]


def model_of(setup: Setup, params: Params) -> torch.nn.Module:
    """The model of transformers for a run's objective, with its weights and its rates of dropout.

    The classifier's tanh layer is BERT's pooler, its projection the classifier. Regression is by squared error.
    """
    config, objective = setup.config.model, setup.config.objective
    parts, more, count = {"encoder": params["encoder"]}, {}, 2
    if isinstance(objective, TokenClassification):
        kind, count = transformers.BertForTokenClassification, len(objective.tags)
        parts["token_head"] = params["token_head"]
    elif isinstance(objective, QuestionAnswering):
        kind, parts["span_head"] = transformers.BertForQuestionAnswering, params["span_head"]
    else:
        kind, count, head = transformers.BertForSequenceClassification, objective.labels, params["classifier"]
        parts |= {"pooler": {"dense": head["dense"]}, "sequence_head": {"output": head["classifier"]}}
        more = {"problem_type": "regression" if count == 1 else "single_label_classification"}
    settings = {"num_labels": count, "classifier_dropout": objective.dropout}
    published = Published(family_of(config), settings, {})
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, config, parts, {"pad_token_id": setup.tokenizer.pad_id}, published)
        return kind.from_pretrained(folder, attn_implementation="sdpa", **more)


def params_of(model: torch.nn.Module) -> Params:
    """Its weights as ours."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return open_transformers(folder).params


def loss_of(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """The model's own loss; of answers, without the padding, which transformers lets compete for the ends of a span."""
    if "start_positions" not in batch:
        return model(**batch).loss
    inputs = {name: x for name, x in batch.items() if not name.endswith("_positions")}
    output, there = model(**inputs), batch["attention_mask"] == 1
    losses = [
        torch.nn.functional.cross_entropy(logits.masked_fill(~there, float("-inf")), batch[f"{name}_positions"])
        for name, logits in (("start", output.start_logits), ("end", output.end_logits))
    ]
    return sum(losses) / 2


def updates(model: torch.nn.Module, config: OptimizerConfig, steps: int) -> Callable[[Batch], torch.Tensor]:
    """A function that does one update and gives the loss before it.

    Args:
        config: of AdamW with a linear schedule; its warm-up reaches the peak in the last step of it, as ours does.
        steps: of the whole run.

    Raises:
        ValueError: another optimiser or schedule.
    """
    if (config.name, config.schedule, config.final_lr_ratio) != ("adamw", "linear", 0):
        raise ValueError(
            f"{config.name} with the schedule {config.schedule} to {config.final_lr_ratio} is not done here"
        )
    named = list(model.named_parameters())
    plain = {name for name, _ in named if name.endswith("bias") or "LayerNorm" in name}
    groups = [
        {"params": [p for name, p in named if name not in plain], "weight_decay": config.weight_decay},
        {"params": [p for name, p in named if name in plain], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.b1, config.b2), eps=config.eps, fused=True
    )
    warmup = round(config.warmup_ratio * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: min((done + 1) / max(warmup, 1), (steps - done) / max(steps - warmup, 1))
    )
    model.train()

    def update(batch: Batch) -> torch.Tensor:
        loss = loss_of(model, batch)
        loss.backward()
        if config.clip_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        return loss.detach()

    return update
