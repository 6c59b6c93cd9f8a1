"""Train tiny models on one and on eight devices and print the results as JSON, for test_step.py."""

import dataclasses
import json
import zlib
from functools import partial

import jax
import numpy as np

from jaxencoder.objectives.masking import Masking, mask_tokens
from jaxencoder.objectives.mlm import MaskedLM
from jaxencoder.objectives.objective import mean
from jaxencoder.objectives.replaced_token import ReplacedToken
from jaxencoder.sharding import MeshConfig, batch_sharding, make_mesh, shardings
from jaxencoder.training.config import OptimizerConfig
from jaxencoder.training.optimizers import make_optimizer
from jaxencoder.training.step import init_state, train_step
from tests.model.examples import FLOAT32, SMALL, Vocabulary, rows

STEPS, B, T, V = 3, 8, 32, 44
WORDS = Masking(whole_words=True, spans="geometric")
# Family, objective, and the mesh of data, fsdp, tensor and context.
CASES = {
    "static": ("modernbert", MaskedLM(Masking(static=True), chunk=16), MeshConfig(1, 1, 2, 4)),
    "replaced tokens": (
        "bert",
        ReplacedToken(Masking(whole_words=True, spans="geometric"), sharing="gdes"),
        MeshConfig(2, 2, 2, 1),
    ),
}
LENGTHS = [[10, 12], [32], [5, 5, 5, 5], [20, 3], [7], [16, 16], [31], [2, 9, 14]]


def train(family: str, settings: MaskedLM | ReplacedToken, mesh: jax.sharding.Mesh) -> dict:
    config = dataclasses.replace(
        SMALL[family],
        num_layers=len(SMALL[family].windows),  # compiling for eight devices is what takes the time here
        vocab_size=V,
        hidden_size=32,
        num_heads=4,
        dropout=0.2,
        attention_dropout=0.2,
    )
    compute = dataclasses.replace(FLOAT32, attention="banded")  # of the layers with windows; the others are dense
    objective = settings.build(config, compute, Vocabulary(V))
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2), STEPS)
    key = jax.random.key(0)
    with jax.set_mesh(mesh):
        start = partial(init_state, objective, optimizer)
        places = shardings(jax.eval_shape(start, key), mesh)
        state = jax.jit(start, out_shardings=places)(key)
        run = jax.jit(partial(train_step, objective, optimizer, accumulation=2), out_shardings=(places, None))
        corrupt = jax.jit(partial(mask_tokens, masking=settings.masking, vocabulary=Vocabulary(V)))
        losses, norms, masked = [], [], []
        for step in range(STEPS):
            batch = {k: jax.device_put(x, batch_sharding(mesh, 2)) for k, x in rows(LENGTHS, T, seed=step).items()}
            batch["row_ids"] = jax.device_put(np.arange(B, dtype=np.uint32), batch_sharding(mesh, 1))
            masks = corrupt(batch, jax.random.key(step))
            masked.append(zlib.crc32(b"".join(np.asarray(x).tobytes() for x in masks)))
            state, metrics = run(state, batch, key)
            losses.append(float(mean(metrics)))
            norms.append(float(metrics["gradient_norm"][0]))
        kernel = state.params["encoder"]["layers"]["block_0"]["mlp"]["up"]["kernel"]
        split = 1 - kernel.addressable_shards[0].data.size / kernel.size
    params = [np.asarray(x) for x in jax.tree.leaves(state.params)]
    return {"losses": losses, "norms": norms, "masked": masked, "split": split, "params": params}


def main() -> None:
    results = {}
    for name, (family, objective, mesh) in CASES.items():
        one = train(family, objective, make_mesh(MeshConfig(), jax.devices()[:1]))
        eight = train(family, objective, make_mesh(mesh))
        pairs = zip(one.pop("params"), eight.pop("params"), strict=True)
        eight["distance"] = float(max(np.abs(a - b).max() for a, b in pairs))
        results[name] = {"one": one, "eight": eight}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
