"""What the verbs of the command line share."""

import argparse

MODEL_HELP = "folder of a run, of an adapter, of transformers or of sentence-transformers, or a name of the hub"
POOLINGS = ("cls", "mean", "max", "learned", "mean_sqrt_len", "weightedmean", "lasttoken")
POOLING_HELP = "how token vectors become one (default: the model's own, or mean)"
WINDOW_POOLINGS = ("mean", "max", "first", "length")
BATCH_TOKENS_HELP = "tokens in one batch (default: 1024 on a CPU, else 8192)"


def add_verb(verbs, name: str, run, help: str, **options) -> argparse.ArgumentParser:
    """A verb's parser; `run` is called with the parsed arguments, and `help` describes it too."""
    parser = verbs.add_parser(
        name, help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False, **options
    )
    parser.set_defaults(verb=run, parser=parser)
    return parser


def keep_freed_memory() -> None:
    """For verbs that compute much, before they do; see `jaxencoder.training.memory`."""
    from jaxencoder.training import memory

    memory.keep_freed_memory()


def add_prompt_options(parser, whose: str = "") -> None:
    """What is put before texts that search and before those that are searched; `whose` says of which model."""
    for name, stored in (("query", "query"), ("document", "document, passage or corpus")):
        parser.add_argument(
            f"--{name}-prompt",
            metavar="PROMPT",
            help=f"{whose}name of a stored prompt for each {name}, or its text (default: that called {stored}, if any)",
        )


def window_config(args: argparse.Namespace):
    """The WindowConfig that `add_long_options` asked for, or None to truncate."""
    from jaxencoder.inference.options import WindowConfig

    if args.long == "windows":
        return WindowConfig(args.stride, args.window_pooling)
    for name in ("stride", "window_pooling"):
        if (value := getattr(args, name)) is not None:
            raise ValueError(f"{name} is {value!r}, but long texts are truncated; add --long windows, or leave it out")
    return None


def add_long_options(parser, poolings: tuple[str, ...]) -> None:
    """How texts that are longer than a model reads are read; `poolings` are those of windows."""
    parser.add_argument(
        "--long", choices=("truncate", "windows"), help="texts longer than a row: cut (default), or read in windows"
    )
    parser.add_argument("--stride", type=int, metavar="N", help="tokens by which windows move (default: half of one)")
    learned = "; learned, if --pooling is" if "learned" in poolings else ""
    parser.add_argument(
        "--window-pooling",
        choices=poolings,
        help=f"what a text has of its windows (default: length, their mean by tokens{learned})",
    )
