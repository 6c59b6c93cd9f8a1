"""The verbs of tasks: what a run predicts, how good a model is, and whether one is better than another; see `cli`."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxencoder.cli_options import (
    BATCH_TOKENS_HELP,
    MODEL_HELP,
    POOLING_HELP,
    POOLINGS,
    WINDOW_POOLINGS,
    add_long_options,
    add_prompt_options,
    add_verb,
    keep_freed_memory,
)

FIELDS = ("text_field", "pair_field", "label_field")
SEARCH = ("split", "query_prompt", "document_prompt", "pooling", "batch_tokens")
TASKS = {  # of `evaluate`, and the options of each
    "similarity": (*FIELDS, "prompt", "pooling", "batch_tokens"),
    "retrieval": SEARCH,
    "reranking": ("first", "k", *SEARCH),
    "probing": ("text_field", "label_field", "batch_tokens"),
}
OWN = (
    *FIELDS,
    "output",
    "slice_by",
    "tune_threshold",
    "report",
    "long",
    "stride",
    "window_pooling",
)  # of `evaluate` without a task
PREDICT = ("text_field", "pair_field", "probabilities", "threshold", "long", "stride", "window_pooling", "batch_tokens")


def add_verbs(verbs) -> None:
    """Declare them."""
    predict = add_verb(verbs, "predict", _predict, "what a fine-tuned model predicts for each record of a source")
    predict.add_argument("run", metavar="MODEL", help=MODEL_HELP)
    predict.add_argument("--input", required=True, metavar="SOURCE", help="records: .jsonl, .parquet, tfds:NAME, ...")
    predict.add_argument("--output", required=True, type=Path, help=".jsonl or .parquet file to write")
    predict.add_argument(
        "--text-field", help="field of the text (default, as of the next one: a run's own, or found among usual names)"
    )
    predict.add_argument("--pair-field", help="field of the second text")
    predict.add_argument("--probabilities", action="store_true", default=None, help="write those of all classes")
    predict.add_argument(
        "--threshold", type=float, help="of runs with several classes for a text: from which probability on (0.5)"
    )
    predict.add_argument(
        "--no-answer", action="store_true", default=None, help="of published readers: a question may have no answer"
    )
    predict.add_argument("--batch-tokens", type=int, help=BATCH_TOKENS_HELP)
    add_long_options(predict, WINDOW_POOLINGS)

    evaluate = add_verb(
        verbs, "evaluate", _evaluate, "the metrics of a run, or of any model's vectors on published sets"
    )
    evaluate.add_argument(
        "run",
        metavar="MODEL",
        help=f"{MODEL_HELP}; without --task a run, or a published classifier, tagger or reader",
    )
    evaluate.add_argument(
        "--data",
        nargs="+",
        help="similarity: sources of pairs, each one set, or several joined by commas to one; retrieval and reranking: "
        "BEIR folders; probing: sources; without --task: one source of labelled records (default: the run's own "
        "validation data)",
    )
    evaluate.add_argument(
        "--task",
        choices=tuple(TASKS),
        help="measure vectors, of similar pairs or in a search; a run that scores pairs, on what a search finds; or "
        "the words that a masked language model fills in",
    )
    evaluate.add_argument("--first", metavar="MODEL", help="of reranking: the model whose vectors search")
    evaluate.add_argument("-k", type=int, help="of reranking: documents that are scored for each query (default: 100)")
    evaluate.add_argument(
        "--step", type=_step, help="checkpoint of a run: best, latest, or its number (default: latest)"
    )
    evaluate.add_argument("--output", type=Path, help="JSON file for the results (default: a run's results.json)")
    evaluate.add_argument("--split", help="of the relevances of retrieval and reranking (default: test)")
    evaluate.add_argument(
        "--text-field", help="of the records (default, as of the next two: a run's own, or found among usual names)"
    )
    evaluate.add_argument("--pair-field", help="field of the second text")
    evaluate.add_argument("--label-field", help="field of the label, the score, or of probing's answer")
    evaluate.add_argument("--prompt", help="of similarity: name of a stored prompt, or its text")
    add_prompt_options(evaluate, "of retrieval, and of the model of --first: ")
    evaluate.add_argument("--pooling", choices=POOLINGS, help=POOLING_HELP)
    evaluate.add_argument("--batch-tokens", type=int, help=BATCH_TOKENS_HELP)
    own = evaluate.add_argument_group("of a classifier's own metrics, for classes and values")
    own.add_argument("--slice-by", nargs="+", metavar="FIELD", help="show them by the values of these fields too")
    own.add_argument(
        "--tune-threshold",
        nargs="?",
        const="validation",
        metavar="SOURCE",
        help="choose thresholds of the best F1 on this source (without one: on the run's own validation data)",
    )
    own.add_argument("--report", type=Path, metavar="FOLDER", help="for the report (default: a run's report/NAME)")
    add_long_options(own, WINDOW_POOLINGS)

    compare = add_verb(
        verbs,
        "compare",
        _compare,
        "whether one fine-tuned run is better than another, or it is chance",
        epilog="A side is a run's folder, or those of several seeds with commas between, or predictions.jsonl files.",
    )
    compare.add_argument("a", metavar="A", help="a run, or runs with commas between")
    compare.add_argument("b", metavar="B", help="a run, or runs with commas between")
    compare.add_argument("--data", metavar="SOURCE", help="to predict (default: what the runs have held out)")
    compare.add_argument(
        "--step", type=_step, help="checkpoint of runs: best, latest, or its number (default: best, where it is kept)"
    )
    compare.add_argument("--seed", type=int, default=0, help="of the resampling (default: 0)")


def _step(word: str) -> int | str:
    if word in ("best", "latest"):
        return word
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is neither best nor latest nor the number of a checkpoint")
    return int(word)


def _given(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _with_windows(options: dict[str, Any]) -> dict[str, Any]:
    """The options with long, stride and window_pooling as one WindowConfig."""
    from jaxencoder.text.window_config import parse_windows

    windows = parse_windows(*(options.pop(name, None) for name in ("long", "stride", "window_pooling")))
    return options if windows is None else options | {"windows": windows}


def _predict(args: argparse.Namespace) -> None:
    keep_freed_memory()
    from jaxencoder.inference.predict import predict_file

    options = _with_windows(_given(args, (*PREDICT, "no_answer")))
    count = predict_file(args.run, args.input, args.output, **options)
    print(f"{count} records in {args.output}")


def _compare(args: argparse.Namespace) -> None:
    keep_freed_memory()
    from jaxencoder.tasks.compare import compare, table
    from jaxencoder.tasks.significance import in_words

    found = compare(args.a.split(","), args.b.split(","), args.data, args.seed, step=args.step)
    print(f"{found.examples} examples; A: {args.a}; B: {args.b}\n\n{table(found)}\n")
    print(in_words(found.differences[0], "A", "B"))


def _evaluate(args: argparse.Namespace) -> None:
    given = _given(args, dict.fromkeys(["step", *(name for names in TASKS.values() for name in names), *OWN]))
    allowed = ("step", "output", *TASKS[args.task]) if args.task else ("step", *OWN)
    if foreign := [name for name in given if name not in allowed]:
        which = f"--task {args.task}" if args.task else "a run's own metrics; name a --task"
        args.parser.error(f"--{foreign[0].replace('_', '-')} is no option of {which}")
    if args.task and not args.data:
        args.parser.error(f"name the data of --task {args.task} with --data")
    if args.task == "reranking" and not args.first:
        args.parser.error("name the model that searches with --first; the run puts what it finds into its own order")
    if not args.task and len(args.data or ()) > 1:
        args.parser.error("a run's own metrics are those of one source; name a --task, or one --data")
    keep_freed_memory()
    if args.task:
        from jaxencoder.evaluation.evaluate import evaluate_task
        from jaxencoder.tasks.tables import table

        print(table(evaluate_task(args.run, args.task, args.data, **given)))
        return
    from jaxencoder.evaluation.evaluate import evaluate
    from jaxencoder.tasks.tables import summary

    print(summary(evaluate(args.run, data=args.data[0] if args.data else None, **_with_windows(given))))
