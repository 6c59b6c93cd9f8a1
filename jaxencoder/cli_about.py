"""The verbs that say what a model is and what it costs, and compute nothing: families, inspect, cost; see `cli`."""

import argparse
import math

from jaxencoder.cli_options import MODEL_HELP, add_verb

_AXES = ("data", "fsdp", "tensor", "context")
_ATTENTIONS = ("own", "global", "local", "dense")


def add_verbs(verbs) -> None:
    """Declare them."""
    families = add_verb(
        verbs, "families", _families, "the families of encoders: what is special, sizes, when to choose which"
    )
    families.add_argument("name", nargs="?", metavar="NAME", help="one of them, in full")
    families.add_argument("--json", action="store_true", help="print JSON")

    inspect = add_verb(
        verbs,
        "inspect",
        _inspect,
        "what a model or a recipe is made of, and what it takes",
        epilog="a recipe's settings may follow, such as --model.num-layers 4",
    )
    inspect.add_argument("target", metavar="MODEL", help=f"{MODEL_HELP}; or a recipe")
    inspect.add_argument("--all", action="store_true", help="every setting, not only those that are not the default")
    inspect.add_argument("--length", type=int, metavar="N", help="tokens in a row (default: the model's own)")
    _mesh_options(inspect)

    cost = add_verb(
        verbs,
        "cost",
        _cost,
        "what rows of some lengths cost to train on and to encode: FLOPs and memory, compiled and never run",
        epilog=inspect.epilog,
    )
    cost.add_argument("target", metavar="MODEL", help=f"{MODEL_HELP}; or a recipe")
    cost.add_argument(
        "--length",
        type=_length,
        nargs="+",
        default=[512, 2048, 8192],
        metavar="N",
        help="tokens (default: 512 2048 8192)",
    )
    cost.add_argument("--batch", type=int, metavar="N", help="rows, over all devices (default: one for each share)")
    cost.add_argument(
        "--attention",
        nargs="+",
        type=_attention,
        default=_ATTENTIONS,
        metavar="NAME",
        help="own: as the model has it; global, local: all layers so; dense: own, all scores in memory (default: each)",
    )
    cost.add_argument(
        "--window", type=int, metavar="N", help="of local layers, tokens to either side (default: its own, or 64)"
    )
    cost.add_argument("--backend", help="of attention, as compute.attention (default: the model's own)")
    _mesh_options(cost)


def _length(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is no number of tokens; a MODEL stands before --length")
    return int(word)


def _attention(word: str) -> str:
    if word not in _ATTENTIONS:
        known = ", ".join(_ATTENTIONS)
        raise argparse.ArgumentTypeError(f"{word!r} is none of {known}; a MODEL stands before --attention")
    return word


def _mesh_options(parser: argparse.ArgumentParser) -> None:
    """Of a verb that looks at a model on devices, and takes a recipe's settings too."""
    for axis in _AXES:
        parser.add_argument(f"--mesh.{axis}", type=int, metavar="N", help=f"devices on the axis {axis} of the mesh")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(rest=True)


def _mesh(args: argparse.Namespace) -> dict[str, int]:
    return {axis: size for axis in _AXES if (size := getattr(args, f"mesh.{axis}")) is not None}


def _families(args: argparse.Namespace) -> None:
    from jaxencoder import reports
    from jaxencoder.families.about import entry, everything, family_named, overview

    if args.name:
        found = entry(family_named(args.name))
        print(reports.as_json(found) if args.json else reports.family(found))
    else:
        print(reports.as_json(everything()) if args.json else reports.families(overview()))


def _inspect(args: argparse.Namespace) -> None:
    from jaxencoder import reports
    from jaxencoder.inference.inspect import inspect

    found = inspect(args.target, _mesh(args), args.length, args.overrides)
    print(reports.as_json(found) if args.json else reports.inspection(found, args.all))


def _cost(args: argparse.Namespace) -> None:
    from jaxencoder import reports
    from jaxencoder.inference.cost import cost, pretend_devices

    mesh = _mesh(args)
    pretend_devices(math.prod(mesh.values()))
    found = cost(
        args.target,
        args.length,
        rows=args.batch,
        mesh=mesh,
        attention=args.attention,
        window=args.window,
        backend=args.backend,
        overrides=args.overrides,
    )
    print(reports.as_json(found) if args.json else reports.costs(found))
