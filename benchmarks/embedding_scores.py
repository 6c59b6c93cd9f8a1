"""Quality of trained embeddings: jaxencoder and sentence-transformers at equal settings, over seeds.

    python benchmarks/embedding_scores.py                 # about 50 minutes on 2 cores
    python benchmarks/embedding_scores.py --seeds 1 --no-retrieval

Both sides start from all-MiniLM-L6-v2 and see the records of contrastive.py once: pairs of questions that ask the same
(QQP), and premises with an entailed and a contradicting hypothesis (MNLI). Each batch of 64 examples has one kind.
Multiple negatives ranking with scale 20, dropout 0.1, AdamW at 5e-5, 10% of linear warm-up, linear decay, and clipping
at norm 1. sentence-transformers runs its loss with the step of its trainer. The order of examples, dropout and nothing
else depends on the seed; each side draws its own. All models are evaluated by jaxencoder: Spearman correlations on
STS-B dev, SICK-R and STS14, and nDCG@10 on SciFact, times 100.

Files beside those of contrastive.py: glue/stsb/validation.jsonl, sts/sick/test.jsonl, sts/sts14/test.jsonl and
retrieval/scifact in the folder JAXENCODER_SHARED_DATA (default: data).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from contrastive import add_model, torch_loss, write_records
from train_step import DATA, line, machine

BATCH = 64
LEARNING_RATE, WARMUP = 5e-5, 0.1
SIMILARITY = {
    "STS-B dev": DATA / "glue/stsb/validation.jsonl",
    "SICK-R": DATA / "sts/sick/test.jsonl",
    "STS14": DATA / "sts/sts14/test.jsonl",
}
SCIFACT = DATA / "retrieval/scifact"


def jaxencoder(*arguments: object) -> None:
    command = [sys.executable, "-m", "jaxencoder", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=sys.stderr)


def train_ours(model: str, files: list[Path], seed: int, folder: Path) -> None:
    settings = ["--data.validation-fraction", 0, "--training.num-evaluations", 0, "--training.seed", seed]
    settings += ["--data.batch-sources", "one", "--training.batch-examples", BATCH, "--objective.no-mask-duplicates"]
    settings += ["--optimizer.learning-rate", LEARNING_RATE, "--optimizer.warmup-ratio", WARMUP]
    jaxencoder("train", "embedding_pairs", "--init-from", model, "--run-dir", folder, "--data.train", *files, *settings)


def train_theirs(model: str, files: list[Path], seed: int, folder: Path) -> None:
    torch.manual_seed(seed)
    loss_function = torch_loss(model, cached=False, dropout=0.1)
    encoder = loss_function.model
    batches = [
        [encoder.preprocess(list(column)) for column in zip(*texts, strict=True)] for texts in draw_batches(files, seed)
    ]
    optimizer = torch.optim.AdamW(loss_function.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    warmup = WARMUP * len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(step / warmup, (len(batches) - step) / (len(batches) - warmup))
    )
    for batch in batches:
        loss_function(batch, None).backward()
        torch.nn.utils.clip_grad_norm_(loss_function.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    encoder.save(str(folder))


def draw_batches(files: list[Path], seed: int) -> Iterator[list[list[str]]]:
    """The texts of each record of each batch, all of one file; batches are in a random order."""
    random, batches = np.random.default_rng(seed), []
    for file in files:
        records = [list(json.loads(text).values()) for text in file.read_text(encoding="utf-8").splitlines()]
        records = [records[i] for i in random.permutation(len(records))]
        batches += [records[i : i + BATCH] for i in range(0, len(records), BATCH)]
    return (batches[i] for i in random.permutation(len(batches)))


def evaluate(model: object, with_retrieval: bool, folder: Path) -> dict[str, float]:
    """The score of each data set."""
    file = folder / f"{Path(str(model)).name}.json"  # one file holds results of one model
    jaxencoder("evaluate", "similarity", model, *SIMILARITY.values(), "--output", file)
    results = json.loads(file.read_text(encoding="utf-8"))["similarity"]
    scores = {name: 100 * results[str(path)]["spearman"] for name, path in SIMILARITY.items()}
    if with_retrieval:
        jaxencoder("evaluate", "retrieval", model, SCIFACT, "--output", file)
        results = json.loads(file.read_text(encoding="utf-8"))["retrieval"]
        scores["SciFact"] = 100 * results[str(SCIFACT)]["ndcg@10"]
    return scores


def print_row(side: str, scores: Sequence[dict[str, float]]) -> None:
    """Mean and deviation of each data set over seeds."""
    columns = [[by_name[name] for by_name in scores] for name in scores[0]]
    line(side, *(f"{statistics.fmean(x):.2f}" + (f" ± {statistics.stdev(x):.2f}" if x[1:] else "") for x in columns))


SIDES = {"sentence-transformers": train_theirs, "jaxencoder": train_ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--folder", type=Path, help="keeps the models, which another call does not train again")
    parser.add_argument("--retrieval", action=argparse.BooleanOptionalAction, default=True, help="evaluate on SciFact")
    args = parser.parse_args()
    print(machine(), end="\n\n")
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{kind}.jsonl" for kind in ("pairs", "triplets")]
        for file in files:
            write_records(file.stem, file)
        before = evaluate(args.model, args.retrieval, folder)
        line("trained by", *before)
        line("---", *["---:"] * len(before))
        print_row("nobody", [before])
        for side in args.sides:
            scores = []
            for seed in range(args.seeds):
                run = folder / f"{side}{seed}"
                if not run.exists():
                    SIDES[side](args.model, files, seed, run)
                scores.append(evaluate(run, args.retrieval, folder))
                print(side, seed, scores[-1], file=sys.stderr, flush=True)
            print_row(side, scores)


if __name__ == "__main__":
    main()
