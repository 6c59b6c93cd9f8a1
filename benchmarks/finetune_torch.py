"""Fine-tuning with Hugging Face transformers in torch, with the weights, examples and settings of a jaxencoder run.

The steps are those of `Trainer` (transformers 5) without its bookkeeping: batches padded to their longest example,
scaled dot-product attention, fused AdamW without decay of biases and norms, clipping, a linear schedule.
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
    """Set torch's threads, and flush subnormals to zero as XLA does: old moments of AdamW would slow torch down."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)


class Example(NamedTuple):
    """A text or pair with a label, or with a label for each token."""

    token_ids: np.ndarray  # int32 [T], special tokens included
    token_type_ids: np.ndarray  # int32 [T]
    label: int | float | np.ndarray  # int32 [T], -1 for none


def unpack(rows: dict[str, np.ndarray]) -> list[Example]:
    """The examples of packed rows, in the order of the rows.

    Args:
        rows: token_ids and segment_ids [B, T], labels [B, E] or token_labels [B, T], token_type_ids [B, T] of pairs.
    """
    examples = []
    types = rows.get("token_type_ids", np.zeros_like(rows["token_ids"]))
    all_labels = rows["token_labels"] if "token_labels" in rows else rows["labels"]
    for ids, kinds, segments, labels in zip(rows["token_ids"], types, rows["segment_ids"], all_labels, strict=True):
        for number in range(1, segments.max() + 1):
            is_example = segments == number
            label = labels[is_example] if "token_labels" in rows else labels[number - 1].item()
            examples.append(Example(ids[is_example], kinds[is_example], label))
    return examples


def read_examples(stores: Sequence[Store]) -> list[Example]:
    """All examples of prepared rows."""
    return [example for store in stores for example in unpack(store.read(np.arange(len(store))))]


def pad(batch: Sequence[Example], spans: bool = False) -> Batch:
    """Inputs of transformers' models, padded to the longest example.

    Args:
        batch: the examples.
        spans: whether labels of tokens are 0 for the first token of an answer, 1 for its last and 2 for both.
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
            indices = [np.flatnonzero((example.label == end) | (example.label == 2)) for example in batch]
            inputs[name] = np.concatenate(indices)
    elif isinstance(batch[0].label, np.ndarray):
        inputs["labels"] = np.full(shape, -100, np.int64)
        for row, example in zip(inputs["labels"], batch, strict=True):
            row[: len(example.label)] = np.where(example.label < 0, -100, example.label)
    else:
        inputs["labels"] = np.array([example.label for example in batch])
        inputs["labels"] = inputs["labels"].astype(np.float32 if inputs["labels"].dtype.kind == "f" else np.int64)
    return {name: torch.from_numpy(x) for name, x in inputs.items()}


def shuffled_batches(examples: Sequence[Example], size: int, updates: int, seed: int) -> Iterator[list[Example]]:
    """Batches for a number of updates: each epoch has a new order and may end within a batch, as in jaxencoder."""
    rng = np.random.default_rng(seed)
    pending: list[int] = []
    for _ in range(updates):
        while len(pending) < size:
            pending += rng.permutation(len(examples)).tolist()
        yield [examples[i] for i in pending[:size]]
        pending = pending[size:]


def grouped_batches(examples: Sequence[Example], size: int, seed: int) -> list[list[Example]]:
    """An epoch of `Trainer` with group_by_length: groups of 50 random batches, each sorted by length."""
    order, group_size = np.random.default_rng(seed).permutation(len(examples)), 50 * size
    groups = [order[i : i + group_size].tolist() for i in range(0, len(order), group_size)]
    indices = [i for group in groups for i in sorted(group, key=lambda i: -len(examples[i].token_ids))]
    return [[examples[i] for i in indices[start : start + size]] for start in range(0, len(indices), size)]


def torch_model(setup: Setup, params: Params) -> torch.nn.Module:
    """The model of transformers for the objective of a run, with its weights and dropout.

    The tanh layer of the classifier is BERT's pooler. Regression has the squared error as its loss.
    """
    config, objective = setup.config.model, setup.config.objective
    parts, options, count = {"encoder": params["encoder"]}, {}, 2
    if isinstance(objective, TokenClassification):
        kind, count = transformers.BertForTokenClassification, len(objective.tags)
        parts["token_head"] = params["token_head"]
    elif isinstance(objective, QuestionAnswering):
        kind, parts["span_head"] = transformers.BertForQuestionAnswering, params["span_head"]
    else:
        kind, count, head = transformers.BertForSequenceClassification, objective.labels, params["classifier"]
        parts |= {"pooler": {"dense": head["dense"]}, "sequence_head": {"output": head["classifier"]}}
        options = {"problem_type": "regression" if count == 1 else "single_label_classification"}
    settings = {"num_labels": count, "classifier_dropout": objective.dropout}
    published = Published(family_of(config), settings, {})
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, config, parts, {"pad_token_id": setup.tokenizer.pad_id}, published)
        return kind.from_pretrained(folder, attn_implementation="sdpa", **options)


def params_of(model: torch.nn.Module) -> Params:
    """The weights of a model of transformers as parameters of jaxencoder."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return open_transformers(folder).params


def loss_of(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """The model's loss; for answers without the padding, which transformers includes among candidates for span ends."""
    if "start_positions" not in batch:
        return model(**batch).loss
    inputs = {name: x for name, x in batch.items() if not name.endswith("_positions")}
    output, is_token = model(**inputs), batch["attention_mask"] == 1
    losses = [
        torch.nn.functional.cross_entropy(logits.masked_fill(~is_token, float("-inf")), batch[f"{name}_positions"])
        for name, logits in (("start", output.start_logits), ("end", output.end_logits))
    ]
    return sum(losses) / 2


def make_update(model: torch.nn.Module, config: OptimizerConfig, steps: int) -> Callable[[Batch], torch.Tensor]:
    """A function that performs one update and returns the loss before it.

    Args:
        model: to train.
        config: of AdamW with a linear schedule; the last step of the warmup has the peak rate, as in jaxencoder.
        steps: of the run.

    Raises:
        ValueError: another optimizer or schedule.
    """
    if (config.name, config.schedule, config.final_lr_ratio) != ("adamw", "linear", 0):
        raise ValueError(
            f"{config.name} with the schedule {config.schedule} to {config.final_lr_ratio} is not supported here"
        )
    named = list(model.named_parameters())
    undecayed = {name for name, _ in named if name.endswith("bias") or "LayerNorm" in name}
    groups = [
        {"params": [p for name, p in named if name not in undecayed], "weight_decay": config.weight_decay},
        {"params": [p for name, p in named if name in undecayed], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.b1, config.b2), eps=config.eps, fused=True
    )
    warmup = round(config.warmup_ratio * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / max(warmup, 1), (steps - step) / max(steps - warmup, 1))
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
