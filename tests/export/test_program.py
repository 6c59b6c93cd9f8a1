"""Every family and every head as ONNX and as StableHLO, of any batch and length."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnxruntime

import jaxencoder
from jaxencoder.checkpoints.weights import save_weights
from jaxencoder.export.onnx_conversion import convert
from jaxencoder.export.program import Program, program
from jaxencoder.files import write_json
from tests.families import fixtures
from tests.families.peers import CASES

OUTPUTS = {"last_hidden_state": "hidden", "start_logits": "start_logits", "end_logits": "end_logits"}
LOGITS = {"fill-mask": "mlm_logits", "next-sentence-prediction": "nsp_logits", "replaced-token-detection": "rtd_logits"}
# Their global tokens are those of the question: test_folder.py has the refusal.
REFUSED = {("longformer", "ForQuestionAnswering"), ("longformer", "ForMultipleChoice")}
CELLS = [case for case in CASES if (case[0], case[2]) not in REFUSED]
FIRST = [next(case for case in CELLS if case[0] == family) for family in dict.fromkeys(case[0] for case in CELLS)]
EVERY_HEAD_OF_BERT = [case for case in CELLS if case[:2] == ("bert", 0)]


def golden_program(family: str, number: int, kind: str, folder: Path) -> tuple[fixtures.Case, Program, Any]:
    """A case of the fixtures, what is exported of its model, and the model."""
    case = fixtures.golden(family, number, kind)
    write_json(folder / "config.json", case.config)
    save_weights(fixtures.weights(case.shapes, case.prefix), folder)
    model = jaxencoder.load(folder, dtype="float32")
    return case, program(model, gives_vectors=False), model


def onnx_function(exported: Program) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """What onnxruntime computes, by our names."""
    params = jax.tree.map(jnp.asarray, exported.params)
    names = list(exported.inputs)
    graph = convert(
        lambda *arrays: exported.function(params, dict(zip(names, arrays, strict=True))),
        {name: x.shape for name, x in exported.inputs.items()},
    )
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    outputs = [x.name for x in session.get_outputs()]

    def run(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = session.run(outputs, {name: arrays[name].astype(np.int64) for name in names})
        return our_names(exported, dict(zip(outputs, values, strict=True)))

    return run


def our_names(exported: Program, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {OUTPUTS.get(name) or LOGITS.get(exported.task, "logits"): x for name, x in values.items()}


def assert_equal(got: dict[str, np.ndarray], expected: dict[str, Any], mask: np.ndarray) -> None:
    for name, value in got.items():
        wanted = np.asarray(expected[name])
        assert value.shape == wanted.shape
        limit = 1e-4 * max(1, np.abs(wanted).max())
        np.testing.assert_allclose(
            fixtures.at_tokens(value, mask), fixtures.at_tokens(wanted, mask), atol=limit, rtol=0
        )


@pytest.mark.parametrize(("family", "number", "kind"), CELLS)
def test_onnx_of_every_head_equals_transformers(family: str, number: int, kind: str, tmp_path: Path) -> None:
    case, exported, _ = golden_program(family, number, kind, tmp_path)
    T = case.batch["input_ids"].shape[-1]
    if exported.max_length < T:
        pytest.skip(f"the model has {exported.max_length} positions, the fixture rows of {T} tokens")
    got = onnx_function(exported)(case.batch)
    outputs = {name: x for name, x in case.outputs.items() if name in got}
    assert outputs
    fixtures.assert_golden(got, case._replace(outputs=outputs), 3e-5)


@pytest.mark.parametrize(("family", "number", "kind"), FIRST)
def test_onnx_of_any_batch_and_length(family: str, number: int, kind: str, tmp_path: Path) -> None:
    case, exported, model = golden_program(family, number, kind, tmp_path)
    run = onnx_function(exported)
    for batch in (
        {name: x[:2, :1] for name, x in case.batch.items()},
        {name: np.concatenate([x[:1], x[:1]], axis=-1)[:, : exported.max_length] for name, x in case.batch.items()},
    ):
        expected = model(*(batch.get(name) for name in ("input_ids", "attention_mask", "token_type_ids")))
        assert_equal(run(batch), expected, batch["attention_mask"])


@pytest.mark.parametrize(("family", "number", "kind"), FIRST + EVERY_HEAD_OF_BERT[1:])
def test_stablehlo_equals_transformers(family: str, number: int, kind: str, tmp_path: Path) -> None:
    case, exported, model = golden_program(family, number, kind, tmp_path)
    batch = {name: case.batch[name][..., : exported.max_length] for name in exported.inputs}
    arrays = {name: jnp.asarray(x, jnp.int32) for name, x in batch.items()}
    made = jax.export.export(jax.jit(exported.function), platforms=["cpu", "tpu"])(exported.params, exported.inputs)
    got = our_names(exported, {name: np.asarray(x) for name, x in made.call(exported.params, arrays).items()})
    if exported.max_length < case.batch["input_ids"].shape[-1]:
        expected = model(*(batch.get(name) for name in ("input_ids", "attention_mask", "token_type_ids")))
        assert_equal(got, expected, batch["attention_mask"])
    else:
        outputs = {name: x for name, x in case.outputs.items() if name in got}
        fixtures.assert_golden(got, case._replace(outputs=outputs), 3e-5)


def test_heads_that_are_left_out_are_named(tmp_path: Path, caplog) -> None:
    _, exported, _ = golden_program("bert", 0, "ForPreTraining", tmp_path)
    assert exported.task == "fill-mask" and caplog.messages[-1] == "Left out of the exported program: nsp_head."


@pytest.mark.parametrize(
    "settings",
    [
        {"positions": "alibi"},
        {"positions": "rotary", "rope_scaling": "dynamic", "rope_factor": 4.0, "rope_original_length": 4},
        {"positions": "rotary", "windows": (0, 2), "num_layers": 3},
        {"num_experts": 3, "experts_per_token": 2, "expert_layers": (0,)},
        {"bottleneck": 4},
    ],
)
def test_architectures_of_runs(settings: dict[str, Any], make_model) -> None:
    model = make_model(**settings)
    exported = program(model, gives_vectors=False)
    ids = np.random.default_rng(0).integers(5, model.config.model.vocab_size, (2, 9))
    batch = {"input_ids": ids, "attention_mask": np.arange(9) < np.array([[9], [5]]), "token_type_ids": ids * 0}
    assert_equal(onnx_function(exported)(batch), model(ids, batch["attention_mask"]), batch["attention_mask"])
