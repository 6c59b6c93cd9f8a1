"""The command line: one verb per stage, each importing what it needs only when it is called, so that help is quick.

A user's mistake (ValueError, OSError) is one line on stderr and exit code 2; a bug keeps its traceback.
"""

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jaxencoder
from jaxencoder import cli_about, cli_many, cli_tasks
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

TRACEBACK = "JAXENCODER_TRACEBACK"
_RECIPE_HELP = "recipe (path, or name of one that comes with jaxencoder), run folder, or a run's config.json"
_OVERRIDES = "dotted overrides follow, such as --training.steps 200; with a recipe, --help lists them all"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: command-line words; None takes those of this process.

    Returns:
        The exit code: 0, 2 for a mistake of the user, 130 when interrupted.
    """
    args = _parse(sys.argv[1:] if arguments is None else list(arguments))
    try:
        _refuse_mistyped(args)
        if os.environ.get("JAXENCODER_DISTRIBUTED") and args.verb not in (_train, _prepare):
            raise ValueError("several hosts train and prepare together, and nothing else; unset JAXENCODER_DISTRIBUTED")
        args.verb(args)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of a pipe, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if os.environ.get(TRACEBACK):
            raise
        return _fail(_sentence(error) + _advice(error, args), 2)


def _fail(message: str, code: int) -> int:
    print(f"jaxencoder: {message}", file=sys.stderr)
    return code


def _sentence(error: ValueError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def _advice(error: ValueError | OSError, args: argparse.Namespace) -> str:
    """The end of a sentence on a field that records lack: the verb's options that name another."""
    settings = getattr(error, "settings", ())  # of text.sources.MissingField, which is slow to import
    if args.verb in (_train, _prepare):
        options = [f"data.{name}" for name in settings]
    elif args.verb is _tokenizer_train:
        options = settings
    else:
        task = cli_tasks.TASKS.get(getattr(args, "task", None))
        own = task or [action.dest for action in args.parser._actions]
        options = [name for name in settings if name in own]
    named = " or ".join(f"--{name.replace('_', '-')}" for name in options)
    return f"{' Name' if str(error).endswith('?') else '; name'} it with {named}" if named else ""


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="jaxencoder",
        description=jaxencoder.__doc__.splitlines()[0],
        epilog=f"Errors are one line; set {TRACEBACK}=1 to see where they come from.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"jaxencoder {jaxencoder.__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    train = _with_overrides(verbs, "train", _train, "train a recipe, or continue a run")
    train.add_argument("--run-dir", type=Path, help="folder of the run (default: runs/NAME, or the run that is given)")
    _with_overrides(verbs, "prepare", _prepare, "make the tokenizer and the rows of a recipe ahead of training")

    tokenizer = verbs.add_parser("tokenizer", help="train a tokenizer", allow_abbrev=False)
    actions = tokenizer.add_subparsers(metavar="ACTION", required=True)
    action = actions.add_parser("train", help="train a tokenizer from text", allow_abbrev=False, add_help=False)
    action.set_defaults(verb=_tokenizer_train, parser=action, rest=True)

    fill = add_verb(verbs, "fill-mask", _fill_mask, "the best words for each [MASK] of a text")
    fill.add_argument("run", metavar="MODEL", help=MODEL_HELP)
    fill.add_argument("text", nargs="+", metavar="TEXT", help="text with a mask token, such as 'A list is [MASK].'")
    fill.add_argument("-k", type=int, default=5, help="how many (default: 5)")

    embed = add_verb(verbs, "embed", _embed, "one vector for each text of a source")
    embed.add_argument("run", metavar="MODEL", help=MODEL_HELP)
    embed.add_argument("--input", required=True, metavar="SOURCE", help="texts: .jsonl, .txt, .parquet, tfds:NAME, ...")
    embed.add_argument("--output", required=True, type=Path, help=".parquet, .jsonl or .npy file to write")
    embed.add_argument("--normalize", action="store_true", default=None, help="scale each vector to length 1")
    embed.add_argument("--prompt", help="name of a stored prompt, or its text (default: the model's own, if any)")
    embed.add_argument("--dimensions", type=int, metavar="N", help="keep the first N numbers of each vector")
    _embedding_options(embed)

    search = add_verb(verbs, "search", _search, "the texts of a source that are most like a query")
    search.add_argument("run", metavar="MODEL", help=MODEL_HELP)
    search.add_argument("source", metavar="SOURCE", help="texts: pydocs, .jsonl, .txt, .parquet, tfds:NAME, ...")
    search.add_argument("query", metavar="QUERY", help="a text")
    search.add_argument("-k", type=int, default=5, help="how many (default: 5)")
    add_prompt_options(search)
    _embedding_options(search)

    score = add_verb(verbs, "score", _score, "how probable a model finds texts, each token hidden in turn")
    score.add_argument("run", metavar="MODEL", help=MODEL_HELP)
    score.add_argument("text", nargs="*", metavar="TEXT", help="a text")
    score.add_argument("--input", metavar="SOURCE", help="or texts: .jsonl, .txt, .parquet, tfds:NAME, ...")
    score.add_argument("--text-field", default="text", help="field of a record that holds the text (default: text)")
    score.add_argument("--pair-field", help="field of another text; counts how often the first is more probable")

    cli_tasks.add_verbs(verbs)
    cli_many.add_sweep(verbs, _with_overrides, _load_config)
    cli_many.add_glue(verbs, add_verb)

    convert = add_verb(verbs, "convert", _convert, "write a model in another format")
    convert.add_argument("source", metavar="MODEL", help=MODEL_HELP)
    convert.add_argument("folder", type=Path, metavar="FOLDER", help="new folder to write")
    convert.add_argument(
        "--to",
        choices=("hf", "sentence-transformers", "run", "adapter", "peft"),
        required=True,
        help="hf: what transformers loads; sentence-transformers: what that loads; run: what --init-from takes; "
        "adapter: what a run learned beside its base, without that; peft: a LoRA adapter as PEFT loads it",
    )
    convert.add_argument(
        "--pooling", choices=POOLINGS, help="of sentence-transformers (default: the model's own, or mean)"
    )
    convert.add_argument("--normalize", action="store_true", default=None, help="vectors of length 1, likewise")

    extend = add_verb(verbs, "extend", _extend, "write a model that reads longer texts than it was trained on")
    extend.add_argument("source", metavar="MODEL", help=MODEL_HELP)
    extend.add_argument("folder", type=Path, metavar="FOLDER", help="new folder to write")
    extend.add_argument("--max-length", type=int, required=True, metavar="N", help="tokens that it is to read")
    extend.add_argument(
        "--method",
        choices=("interpolate", "tile", "linear", "ntk", "dynamic", "yarn", "none"),
        required=True,
        help="of learned positions interpolate or tile; of rotary ones linear, ntk, dynamic, yarn or none; of ALiBi, "
        "biases and distances none, or interpolate for distances in ranges that grow",
    )
    extend.add_argument("--factor", type=float, help="of the scaling (default: N over the length of training)")
    extend.add_argument(
        "--window", type=int, default=0, metavar="W", help="give global layers a window of W tokens to either side"
    )
    extend.add_argument("--global-tokens", action="store_true", help="with windows: as in Longformer")

    cli_about.add_verbs(verbs)

    args, rest = parser.parse_known_args(words)
    if rest and not getattr(args, "rest", False):
        args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.overrides = rest
    return args


def _refuse_mistyped(args: argparse.Namespace) -> None:
    """ValueError for a verb's own option that is mistyped, which would be taken for a setting of a recipe."""
    options = [option for action in args.parser._actions for option in action.option_strings]
    for name in (word.partition("=")[0] for word in args.overrides if word.startswith("--")):
        if "." not in name and (close := difflib.get_close_matches(name, options, n=1, cutoff=0.8)):
            raise ValueError(f"unknown option {name}; did you mean {close[0]}?")


def _embedding_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text-field", default="text", help="field of a record that holds the text (default: text)")
    parser.add_argument("--pooling", choices=POOLINGS, help=POOLING_HELP)
    parser.add_argument("--batch-tokens", type=int, help=BATCH_TOKENS_HELP)
    add_long_options(parser, (*WINDOW_POOLINGS, "learned"))


def _with_overrides(verbs, name: str, run, help: str) -> argparse.ArgumentParser:
    """A verb that takes a recipe and hands every word it does not know to the recipe's own settings."""
    parser = add_verb(verbs, name, run, help, add_help=False, epilog=_OVERRIDES)
    parser.add_argument("target", nargs="?", metavar="RECIPE", help=_RECIPE_HELP)
    parser.add_argument("-h", "--help", action="store_true", help="show this; after a recipe, its settings")
    parser.set_defaults(rest=True)
    return parser


def _load_config(args: argparse.Namespace):
    """The configuration that a verb of `_with_overrides` was given; explains the verb if it was given none."""
    if args.help:
        args.parser.print_help()
        if args.target is None:
            raise SystemExit(0)
        print()
    if args.target is None:
        args.parser.error("name a RECIPE")
    from jaxencoder.config_io import load

    return load(args.target, ["--help"] if args.help else args.overrides, prog=args.parser.prog)


def _train(args: argparse.Namespace) -> None:
    config = _load_config(args)
    keep_freed_memory()
    from jaxencoder.training.loop import train

    train(config, args.run_dir or _own_folder(args.target) or Path("runs") / config.name)


def _own_folder(target: str) -> Path | None:
    """The folder of a run that is named by itself or by its config.json."""
    path = Path(target)
    folder = path.parent if path.suffix == ".json" else path
    return folder if (folder / "config.json").is_file() else None


def _prepare(args: argparse.Namespace) -> None:
    config = _load_config(args)
    from jaxencoder.text.row_cache import prepare
    from jaxencoder.text.sources.fields import infer_fields
    from jaxencoder.training.setup import with_start

    config, tokenizer = with_start(replace(config, data=infer_fields(config.data, config.schema)))
    wanted = [*((part.data, "train") for part in config.phase_configs), (config.data, "validation")]
    for data, split in dict.fromkeys(wanted):
        for store in prepare(data, tokenizer, split):
            padding = store.meta["padding_fraction"]
            print(f"{split}: {len(store)} rows of {store.meta['row_length']} tokens, {padding:.1%} padding")


def _tokenizer_train(args: argparse.Namespace) -> None:
    from dataclasses import dataclass

    from tyro.conf import Positional

    from jaxencoder.settings import apply
    from jaxencoder.text.config import TokenizerConfig

    @dataclass(frozen=True)
    class Training(TokenizerConfig):
        """Train a tokenizer from text."""

        sources: Positional[tuple[str, ...]] = ()
        """As in data.train: pydocs, tfds:NAME/CONFIG:SPLIT, or files of .jsonl .txt .parquet."""
        output: str = ""
        """Folder to write."""
        text_field: str = "text"
        """Field of a record that holds the text."""

    config = apply(Training(), args.overrides, args.parser.prog)
    if not config.sources or not config.output:
        raise ValueError("name at least one source, and the folder to write with --output")
    if config.path:
        raise ValueError(f"--path {config.path} loads a tokenizer; to train one, leave it out")

    from jaxencoder.text.sources import read
    from jaxencoder.text.tokenizer import train_tokenizer

    records = (record for source in config.sources for record in read(source, text_field=config.text_field))
    tokenizer = train_tokenizer((record[config.text_field] for record in records), config)
    tokenizer.save(config.output)
    print(f"{tokenizer.vocab_size} tokens in {config.output}")


def _fill_mask(args: argparse.Namespace) -> None:
    model = jaxencoder.load(args.run)
    for text in args.text:
        for filled in model.fill_mask(text, args.k):
            for token, probability, sentence in filled:
                print(f"{probability:7.2%}  {token:<16} {sentence}")


def _embed(args: argparse.Namespace) -> None:
    keep_freed_memory()
    from jaxencoder.inference.embed import embed_file

    own = {"normalize": args.normalize, "prompt": args.prompt, "dimensions": args.dimensions}
    count = embed_file(args.run, args.input, args.output, **own, **_embedding_settings(args))
    print(f"{count} texts in {args.output}")


def _search(args: argparse.Namespace) -> None:
    keep_freed_memory()
    from jaxencoder.inference.search import search

    settings = _embedding_settings(args, "query_prompt", "document_prompt")
    for score, record in search(args.run, args.source, args.query, args.k, **settings):
        print(f"{score:7.4f}  {' '.join(record[args.text_field].split())[:160]}")


def _score(args: argparse.Namespace) -> None:
    if bool(args.text) == bool(args.input) or (args.pair_field and not args.input):
        raise ValueError("give texts, or a source of them with --input (and --pair-field for pairs)")
    keep_freed_memory()
    from jaxencoder.inference.score import score_source

    texts = ({"text": text} for text in args.text) if args.text else args.input
    fields = (args.text_field, *([args.pair_field] if args.pair_field else []))
    wins = count = 0
    for record, found in score_source(args.run, texts, fields if args.input else ("text",)):
        numbers = "  ".join(f"{one.log_likelihood:10.3f} nats  {one.perplexity:9.2f} a token" for one in found)
        print(f"{numbers}  {' '.join(record[fields[0] if args.input else 'text'].split())[:100]}")
        wins += found[0].log_likelihood > found[-1].log_likelihood
        count += 1
    if args.pair_field:
        print(f"{args.text_field} is more probable than {args.pair_field} in {wins / count:.1%} of {count} pairs")


def _embedding_settings(args: argparse.Namespace, *more: str) -> dict[str, str | int | None]:
    names = ("text_field", "pooling", "batch_tokens", "long", "stride", "window_pooling", *more)
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _convert(args: argparse.Namespace) -> None:
    from jaxencoder.checkpoints.convert import convert

    convert(args.source, args.folder, args.to, args.pooling, args.normalize)
    form = {"hf": "transformers loads it", "run": "a run", "adapter": "an adapter", "peft": "PEFT loads it"}
    form = form.get(args.to, f"{args.to} loads it")
    print(f"{args.source} in {args.folder}, as {form}")


def _extend(args: argparse.Namespace) -> None:
    from jaxencoder.checkpoints.extend import extend

    options = (args.factor, args.window, args.global_tokens)
    form = extend(args.source, args.folder, args.max_length, args.method, *options)
    form = "a run, which --init-from takes" if form == "run" else f"a folder of {form.replace('hf', 'transformers')}"
    print(f"{args.source} for {args.max_length} tokens in {args.folder}, as {form}")
