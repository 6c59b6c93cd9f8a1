"""The verbs that measure models, and how they are called; see `cli`."""

import argparse
from pathlib import Path

from jaxencoder.cli_options import (
    BATCH_TOKENS_HELP,
    MODEL_HELP,
    POOLING_HELP,
    POOLINGS,
    add_verb,
    keep_freed_memory,
)

TASKS = {  # of `evaluate`, and the options of each
    "similarity": ("text_field", "pair_field", "label_field", "prompt", "pooling", "batch_tokens"),
    "retrieval": ("split", "pooling", "batch_tokens"),
}


def add_verbs(verbs) -> None:
    """Declare them."""
    evaluate = add_verb(
        verbs, "evaluate", _evaluate, "the metrics of a run, or of any model's vectors on published sets"
    )
    evaluate.add_argument("run", metavar="MODEL", help=f"{MODEL_HELP}; without --task a run")
    evaluate.add_argument(
        "--data",
        nargs="+",
        help="similarity: sources of pairs, each one set, or several joined by commas to one; retrieval: BEIR folders; "
        "without --task: one source (default: the run's own validation data)",
    )
    evaluate.add_argument("--task", choices=tuple(TASKS), help="measure vectors: of similar pairs, or in a search")
    evaluate.add_argument("--output", type=Path, help="JSON file for the results (default: a run's results.json)")
    evaluate.add_argument("--split", help="of retrieval's relevances (default: test)")
    evaluate.add_argument("--text-field", help="of similarity (default, as of the next two: found among usual names)")
    evaluate.add_argument("--pair-field", help="field of the second text")
    evaluate.add_argument("--label-field", help="field of the score")
    evaluate.add_argument("--prompt", help="of similarity: name of a stored prompt, or its text")
    evaluate.add_argument("--pooling", choices=POOLINGS, help=POOLING_HELP)
    evaluate.add_argument("--batch-tokens", type=int, help=BATCH_TOKENS_HELP)


def _evaluate(args: argparse.Namespace) -> None:
    names = dict.fromkeys(["output", *(name for options in TASKS.values() for name in options)])
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    allowed = ("output", *TASKS[args.task]) if args.task else ()
    if foreign := [name for name in given if name not in allowed]:
        which = f"--task {args.task}" if args.task else "a run's own metrics; name a --task"
        args.parser.error(f"--{foreign[0].replace('_', '-')} is no option of {which}")
    if args.task and not args.data:
        args.parser.error(f"name the data of --task {args.task} with --data")
    if not args.task and len(args.data or ()) > 1:
        args.parser.error("a run's own metrics are those of one source; name a --task, or one --data")
    keep_freed_memory()
    if args.task:
        from jaxencoder.tasks.evaluate import evaluate_vectors, table

        print(table(evaluate_vectors(args.run, args.task, args.data, **given)))
        return
    from jaxencoder.tasks.evaluate import evaluate, table

    result = evaluate(args.run, data=args.data[0] if args.data else None)
    for name, value in result.items():
        if name != "classes":
            print(f"{name:<24} {value:.4f}" if isinstance(value, float) else f"{name:<24} {value}")
    if "classes" in result:
        print(f"\n{table(result['classes'])}")
