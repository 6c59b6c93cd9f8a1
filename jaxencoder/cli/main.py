"""Entry point: find the verb, read its options, run it.

A user's mistake (ValueError, OSError) is one line on stderr and exit code 2. A bug keeps its traceback.
"""

import difflib
import os
import sys
from collections.abc import Sequence
from dataclasses import fields

import jaxencoder
from jaxencoder.cli import about, exporting, measure, mining, runs, serving, use
from jaxencoder.cli.programs import keep_programs
from jaxencoder.cli.verb import RecipeVerb, Verb

TRACEBACK = "JAXENCODER_TRACEBACK"
VERBS: dict[str, type[Verb]] = {
    "tokenizer train": runs.TrainTokenizer,
    "prepare": runs.Prepare,
    "train": runs.Train,
    "sweep": runs.Sweep,
    "glue": runs.Glue,
    "fill-mask": use.FillMask,
    "score": use.Score,
    "embed": use.Embed,
    "search": use.Search,
    "mine": mining.Mine,
    "predict": use.Predict,
    "serve": serving.Serve,
    "evaluate": measure.Evaluate,
    "evaluate similarity": measure.EvaluateSimilarity,
    "evaluate pair-classification": measure.EvaluatePairClassification,
    "evaluate triplets": measure.EvaluateTriplets,
    "evaluate bitext": measure.EvaluateBitext,
    "evaluate classification": measure.EvaluateClassification,
    "evaluate clustering": measure.EvaluateClustering,
    "evaluate retrieval": measure.EvaluateRetrieval,
    "evaluate compression": measure.EvaluateCompression,
    "evaluate reranking": measure.EvaluateReranking,
    "evaluate probing": measure.EvaluateProbing,
    "compare": measure.Compare,
    "convert": use.Convert,
    "export": exporting.Export,
    "extend": use.Extend,
    "keep-layers": use.KeepLayers,
    "families": about.Families,
    "inspect": about.Inspect,
    "cost": about.Cost,
    "plan": about.Plan,
}


def main(words: Sequence[str] | None = None) -> int:
    """Run the command of these words, or those of this process.

    Returns:
        The exit code: 0, 2 for a user's mistake, 130 after an interrupt.
    """
    words = sys.argv[1:] if words is None else list(words)
    verb = None
    try:
        if not words or words[0] in ("-h", "--help"):
            print(_overview())
            return 0 if words else 2
        if words[0] == "--version":
            print(f"jaxencoder {jaxencoder.__version__}")
            return 0
        name = _verb_name(words)
        verb = VERBS[name].read(words[len(name.split()) :], f"jaxencoder {name}")
        if os.environ.get("JAXENCODER_DISTRIBUTED") and not verb.distributed:
            raise ValueError("only train and prepare run on several hosts; unset JAXENCODER_DISTRIBUTED")
        keep_programs()
        verb.run()
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of a pipe, such as head, has finished
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if os.environ.get(TRACEBACK):
            raise
        return _fail(_sentence(error) + _field_advice(error, verb), 2)


def _fail(message: str, code: int) -> int:
    print(f"jaxencoder: {message}", file=sys.stderr)
    return code


def _sentence(error: ValueError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {(kind.__doc__ or '').splitlines()[0]}" for name, kind in VERBS.items()]
    return "\n".join([
        "usage: jaxencoder COMMAND ...\n",
        f"{(jaxencoder.__doc__ or '').splitlines()[0]}\n",
        *lines,
        "\n`jaxencoder COMMAND --help` lists the options of a command, and `jaxencoder train RECIPE --help` every",
        f"setting of a recipe. Errors are one line; set {TRACEBACK}=1 for their traceback.",
    ])  # fmt: skip


def _verb_name(words: Sequence[str]) -> str:
    """The longest verb that the words begin with."""
    for count in (2, 1):
        if (name := " ".join(words[:count])) in VERBS:
            return name
    matches = difflib.get_close_matches(words[0], VERBS, n=1) or [x for x in VERBS if x.startswith(f"{words[0]} ")]
    hint = f"did you mean {matches[0]}?" if matches else "jaxencoder --help lists them"
    raise ValueError(f"no command is called {words[0]!r}; {hint}")


def _field_advice(error: ValueError | OSError, verb: Verb | None) -> str:
    """For a field that records lack: the options of the verb that name another."""
    settings = getattr(error, "settings", ())  # of MissingField, whose module is slow to import
    if isinstance(verb, RecipeVerb):
        names = [f"--data.{name}" for name in settings]
    else:
        options = {field.name for field in fields(verb)} if verb else set()
        names = [f"--{name}" for name in settings if name in options]
    start = " Name" if str(error).endswith("?") else "; name"
    return f"{start} it with {' or '.join(names).replace('_', '-')}" if names else ""
