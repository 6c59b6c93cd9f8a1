"""Study of reading beyond the trained length: small encoders, a held-out novel, no further training.

    python configs/studies/length.py --text novels.jsonl.xz

The encoders differ only in their positions: learned, rotary, ALiBi or disentangled. They are pretrained on rows of 256
tokens from all novels but the last. Each then reads the beginning of the last novel in rows of up to 4,096 tokens, with
every applicable method of `jaxencoder extend`. The same 15% of the tokens are masked at every length and for every
method, so that each number is the loss of the same tokens with more or less context.

Each result is one file in --runs, so that an interrupted command continues with the same settings; name another folder
for other settings. After each result length.md and length.png in --output are rewritten.

Cost: about an hour on one CPU core with the defaults (an estimate), most of it pretraining.
"""

import argparse
import hashlib
import json
import lzma
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxencoder
from jaxencoder.checkpoints.extend import extended
from jaxencoder.config import (
    ComputeConfig,
    DataConfig,
    EncoderConfig,
    MaskedLM,
    Masking,
    OptimizerConfig,
    RunConfig,
    TokenizerConfig,
    TrainingConfig,
)
from jaxencoder.files import write_atomic, write_table
from jaxencoder.inference.model import OpenedModel
from jaxencoder.model.heads import MlmHead
from jaxencoder.objectives.masking import Masked
from jaxencoder.objectives.mlm import predict
from jaxencoder.tasks.running import encoder_output
from jaxencoder.text.cache import load_or_train
from jaxencoder.text.sources import read
from jaxencoder.training.loop import train
from jaxencoder.training.memory import keep_freed_memory

TRAINED = 256  # tokens in a row of pretraining
LENGTHS = (256, 512, 1024, 2048, 4096)
SHORT_AFTER = "256 after"  # rows of 256 tokens, read by the model with the longest extension
WINDOW = 127  # tokens to either side, the average context in a row of pretraining


class Variant(NamedTuple):
    """A kind of positions: settings of the encoder, the applicable methods, and a factor on the training steps.

    Variants are compared only with themselves; learned positions take longest to leave the plateau of word frequencies.
    """

    settings: dict
    methods: tuple[str, ...]
    longer: int = 1


MODELS = {
    "learned": Variant({"positions": "learned"}, ("interpolate", "tile", "tile, windows"), longer=3),
    "rotary": Variant({"positions": "rotary"}, ("none", "linear", "ntk", "dynamic", "yarn", "none, windows")),
    "alibi": Variant({"positions": "alibi"}, ("none", "none, windows")),
    "disentangled": Variant(
        {
            **{"positions": "none", "disentangled": ("c2p", "p2c"), "position_buckets": 64, "max_distance": TRAINED},
            **{"relative_embedding_norm": True, "relative_projection": "shared"},
        },
        ("none", "interpolate", "none, windows"),
    ),
}
NOVEL = "novel.jsonl"
SETTINGS = "settings.json"


def pretraining(name: str, args: argparse.Namespace) -> RunConfig:
    model = EncoderConfig(
        vocab_size=args.vocabulary,
        num_layers=args.layers,
        hidden_size=args.hidden,
        mlp_size=2 * args.hidden,
        num_heads=args.hidden // 32,
        max_length=TRAINED,
        token_types=0,
        norm_placement="pre",
        norm_epsilon=1e-5,
        first_attention_norm=False,
        gated_mlp=True,
        dropout=0.0,
        attention_dropout=0.0,
        **MODELS[name].settings,
    )
    return RunConfig(
        name=name,
        model=model,
        compute=ComputeConfig(dtype="float32"),
        objective=MaskedLM(Masking(rate=0.25)),
        tokenizer=TokenizerConfig(vocab_size=args.vocabulary),
        data=DataConfig(train=(str(args.runs / "train.jsonl"),), validation_fraction=0.02, row_length=TRAINED),
        optimizer=OptimizerConfig(
            name="muon", learning_rate=args.learning_rate, schedule="wsd", warmup_ratio=0.02, decay_ratio=0.3
        ),
        training=TrainingConfig(
            steps=args.steps * MODELS[name].longer, batch_size=args.batch, log_every=50, eval_every=0, eval_batches=8,
            checkpoint_every=10_000, keep_best=False, tensorboard=False,
        ),
    )  # fmt: skip


def settings(args: argparse.Namespace) -> dict[str, str | int | float]:
    """The settings that the results depend on.

    Raises:
        ValueError: existing results have other settings.
    """
    values = {name: value for name, value in vars(args).items() if name not in ("text", "runs", "output", "only")}
    values["text"] = hashlib.sha256(Path(args.text).read_bytes()).hexdigest()
    file = args.runs / SETTINGS
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    begun = bool(kept) or any(args.runs.glob("*.npy"))
    for name in values if begun else ():
        if kept.get(name) != values[name]:
            other = f"{name} {kept[name]}, not {values[name]}" if name in kept else "unknown settings"
            raise ValueError(f"{args.runs} was begun with {other}; name another folder with --runs")
    return values


def split(args: argparse.Namespace) -> None:
    """Write all novels but the last, to train on, and the last one, to read, as two files in the runs' folder."""
    if (args.runs / SETTINGS).exists():
        return
    with lzma.open(args.text, "rt", encoding="utf-8") as file:
        *novels, last = filter(None, file.read().split("\n"))
    (args.runs / "train.jsonl").write_text("\n".join(novels[: args.novels]) + "\n", encoding="utf-8")
    write_atomic(args.runs / NOVEL, last + "\n")


def pretrained(name: str, args: argparse.Namespace) -> Path:
    """Train a run, or finish an interrupted one, and return its folder."""
    folder = args.runs / name
    train(pretraining(name, args), folder)
    return folder


def held_out(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """The beginning of the novel, ids int32 [S], and its masked tokens, bool [S]; the same for all models.

    Raises:
        ValueError: the novel does not fill the rows.
    """
    (record,) = read(str(args.runs / NOVEL))
    config = pretraining(next(iter(MODELS)), args)
    ids, _ = load_or_train(config.tokenizer, config.data).encode_ids([record["text"]])
    S = args.rows * (max(LENGTHS) - 2)
    if args.rows < 1 or len(ids) < S:
        raise ValueError(
            f"the last novel has {len(ids)} tokens, but --rows is {args.rows}, and a row takes {max(LENGTHS) - 2}; "
            "give others, at least 1, or a text whose last novel is longer"
        )
    return ids[:S].astype(np.int32), np.random.default_rng(0).random(S) < 0.15


@partial(jax.jit, static_argnums=(0, 1))
def row_losses(config: EncoderConfig, compute: ComputeConfig, params, rows, masked: Masked) -> jax.Array:
    """Cross-entropy in nats of each slot [B, K]."""
    x = encoder_output(config, compute, params, rows)
    return predict(MlmHead(config), params, x, masked, 512)[1].losses


def losses(model: OpenedModel, T: int, ids: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Cross-entropy in nats of each masked token, float32 [M], read in rows of T; NaN after the last full row."""
    tokenizer, S = model.tokenizer, T - 2
    B = len(ids) // S
    result = np.full(len(ids), np.nan, np.float32)

    def framed(x: np.ndarray, first: int, last: int) -> np.ndarray:
        return np.pad(x[: B * S].reshape(B, S), ((0, 0), (1, 1)), constant_values=((0, 0), (first, last)))

    targets, hide = framed(ids, tokenizer.cls_id, tokenizer.sep_id), framed(chosen, False, False)
    slots = np.argsort(~hide, axis=1, kind="stable")[:, : hide.sum(1).max()]
    is_used = np.take_along_axis(hide, slots, 1)
    at = np.arange(B)[:, None] * S + slots - 1
    step = max(LENGTHS) // T
    for start in range(0, B, step):
        part = slice(start, start + step)
        shown = np.where(hide, tokenizer.mask_id, targets)[part]
        rows = {"token_ids": shown, "segment_ids": np.ones_like(shown)}
        rows["positions"] = np.broadcast_to(np.arange(T, dtype=np.int32), shown.shape)
        weights = is_used[part].astype(np.float32)
        masked = Masked(shown, slots[part], np.take_along_axis(targets, slots, 1)[part], weights)
        values = row_losses(model.config.model, model.compute, model.params, rows, jax.tree.map(jnp.asarray, masked))
        result[at[part][is_used[part]]] = np.asarray(values)[is_used[part]]
    return result[chosen]


def measured(model: OpenedModel, method: str, ids: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The losses [lengths and `SHORT_AFTER`, M] of one method."""
    name, _, windows = method.partition(", ")

    def longer(T: int) -> OpenedModel:
        return extended(model, T, name, window=WINDOW if windows else 0)

    values = [losses(longer(T) if T > TRAINED else model, T, ids, chosen) for T in LENGTHS]
    return np.stack([*values, losses(longer(max(LENGTHS)), TRAINED, ids, chosen)])


def results(args: argparse.Namespace) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """(model, method, losses [lengths and `SHORT_AFTER`, M'], positions in the longest rows [M']) of each result.

    Only tokens in rows of all lengths are included.
    """
    for name, variant in MODELS.items():
        for method in variant.methods:
            if (file := result_file(name, method, args)).exists():
                values = np.load(file)
                in_all = ~np.isnan(values[:-1]).any(0)
                longest = max(LENGTHS) - 2
                S = args.rows * longest
                positions = np.flatnonzero(np.random.default_rng(0).random(S) < 0.15) % longest + 1
                yield name, method, values[:, in_all], positions[in_all]


def result_file(name: str, method: str, args: argparse.Namespace) -> Path:
    return args.runs / f"{name}-{method.replace(', ', '-')}.npy"


def report(args: argparse.Namespace) -> None:
    """Write the tables and the plot of all results so far."""
    measurements = list(results(args))
    write_table(args.output / "length.md", "\n".join(tables(measurements, args)), "# Length")
    plot(measurements, args.output / "length.png")


def tables(measurements: list, args: argparse.Namespace) -> Iterator[str]:
    columns = [*map(str, LENGTHS), SHORT_AFTER]
    size = (
        f"{args.layers} layers of {args.hidden}, vocabulary {args.vocabulary}, {args.steps} steps of {args.batch} rows"
    )
    count = measurements[0][2].shape[1] if measurements else 0
    yield f"{size} of {TRAINED} tokens; {count} masked tokens. Masked loss (nats):\n"
    yield f"| positions | method | {' | '.join(columns)} |"
    yield f"|---|---|{'---:|' * len(columns)}"
    for name, method, values, _ in measurements:
        yield f"| {name} | {method} | {' | '.join(f'{np.nanmean(row):.3f}' for row in values)} |"
    edges = (0, *LENGTHS)
    names = [f"to {end}" for end in LENGTHS]
    yield f"\nIn rows of {max(LENGTHS)}, by position: loss above that in rows of {TRAINED}, ± standard error:\n"
    yield f"| positions | method | {' | '.join(names)} |"
    yield f"|---|---|{'---:|' * len(names)}"
    for name, method, values, positions in measurements:
        more = values[LENGTHS.index(max(LENGTHS))] - values[0]
        parts = [more[(positions >= start) & (positions < end)] for start, end in zip(edges, LENGTHS, strict=False)]
        cells = (f"{part.mean():+.2f} ± {part.std() / len(part) ** 0.5:.2f}" for part in parts)
        yield f"| {name} | {method} | {' | '.join(cells)} |"
    yield ""


def plot(measurements: list, file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(MODELS), figsize=(14, 4.2), sharey=True, layout="constrained", squeeze=False)
    for axis, name in zip(axes[0], MODELS, strict=True):
        for model, method, values, positions in measurements:
            if model != name:
                continue
            bins = positions // 256
            loss = [values[len(LENGTHS) - 1, bins == i].mean() for i in range(bins.max() + 1)]
            axis.plot(256 * np.arange(len(loss)) + 128, loss, label=method)
            if method == MODELS[name].methods[0]:
                base = [values[0, bins == i].mean() for i in range(bins.max() + 1)]
                axis.plot(256 * np.arange(len(base)) + 128, base, "k:", label=f"rows of {TRAINED}")
        axis.set_title(f"{name}: rows of {max(LENGTHS)}")
        axis.set_xlabel("position in the row (tokens)")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0, 0].set_ylabel("masked loss (nats)")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="novels, .jsonl.xz with one in a line")
    parser.add_argument("--runs", type=Path, default=Path("runs/study-length"))
    parser.add_argument("--output", type=Path, default=Path("docs/studies"))
    for name, value in (("novels", 60), ("layers", 4), ("hidden", 128), ("batch", 8), ("steps", 900)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--rows", type=int, default=8, help="number of rows of the longest length to read")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    args = parser.parse_args()
    keep_freed_memory()
    args.runs.mkdir(parents=True, exist_ok=True)
    args.output.mkdir(parents=True, exist_ok=True)
    try:
        decided = settings(args)
        split(args)
        ids, chosen = held_out(args)
    except ValueError as error:
        parser.error(str(error))
    write_atomic(args.runs / SETTINGS, json.dumps(decided, indent=2) + "\n")
    for name in args.only:
        run = pretrained(name, args)
        for method in MODELS[name].methods:
            file = result_file(name, method, args)
            if not file.exists():
                values = measured(jaxencoder.load(run), method, ids, chosen)
                np.save(file.with_suffix(".part.npy"), values)
                os.replace(file.with_suffix(".part.npy"), file)
                print(f"{name}, {method}: {np.nanmean(values, 1).round(3).tolist()}", flush=True)
                report(args)
    report(args)


if __name__ == "__main__":
    main()
