"""What holds for every loss: finite values and gradients for any batch, and the same on one device and on eight."""

import jax
import numpy as np
import pytest

from tests.devices import results_on_eight
from tests.tasks.embeddings.cases import LOSSES, all_losses, arguments

SHAPE = N, C, D = 6, 4, 4
run = jax.jit(all_losses)


def batch(kind: str) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Vectors, mask and other arguments of an unusual batch."""
    vectors, mask = np.random.default_rng(0).standard_normal(SHAPE, np.float32), np.ones((N, C), bool)
    rest = arguments(*SHAPE)
    match kind:
        case "zero vectors":
            vectors[:] = rest["teacher_vectors"][:] = rest["guide_vectors"][:] = 0
        case "some zero vectors":
            vectors[:3] = vectors[4, 1] = rest["teacher_vectors"][0] = rest["guide_vectors"][0] = 0
        case "equal vectors":
            vectors[:] = vectors[:1, :1]
            rest["teacher_vectors"][:] = vectors[0, 0]
            rest["guide_vectors"][:] = rest["guide_vectors"][:1, :1]
        case "no texts":
            mask[:] = False
        case "one pair":
            mask[:] = False
            mask[3, :2] = True
        case "only queries":
            mask[:, 1:] = False
        case "no scores":
            for name in ("scores", "teacher_scores"):
                rest[name][:] = np.nan
            rest["labels"][:] = -1
        case "large vectors":
            vectors *= 1e6
        case "absent vectors are NaN":
            mask[1:3, :3] = mask[5] = False
            for x in (vectors, rest["teacher_vectors"], rest["guide_vectors"]):
                x[~mask] = np.nan
            rest["scores"][1] = rest["teacher_scores"][1, 2] = np.nan
        case "tiny vectors":
            vectors *= 1e-20  # their squares are 0 in float32
    return vectors, mask, rest


@pytest.mark.parametrize(
    "kind",
    [
        "zero vectors",
        "some zero vectors",
        "equal vectors",
        "no texts",
        "one pair",
        "only queries",
        "no scores",
        "large vectors",
        "absent vectors are NaN",
        "tiny vectors",
    ],
)
def test_unusual_batches(kind) -> None:
    vectors, mask, rest = batch(kind)
    for name, (total, weight, gradient) in run(vectors, mask, rest).items():
        assert np.isfinite(total) and np.isfinite(gradient).all(), name
        assert float(weight) >= 0 and float(weight) == int(weight), name
        assert weight or (not total and not np.any(gradient)), name
        assert not np.any(gradient[~mask]), name
        if kind == "no texts":
            assert not weight, name


def test_order_of_examples_changes_nothing() -> None:
    """Nor does the place of padding."""
    vectors, mask, rest = batch("absent vectors are NaN")
    order = np.random.default_rng(1).permutation(N)
    expected = run(vectors, mask, rest)
    permuted = run(vectors[order], mask[order], {name: x[order] for name, x in rest.items()})
    for name, (total, weight, gradient) in permuted.items():
        assert float(total) == pytest.approx(float(expected[name][0]), rel=1e-5, abs=1e-6), name
        assert float(weight) == float(expected[name][1]), name
        np.testing.assert_allclose(gradient, expected[name][2][order], atol=1e-5, rtol=1e-5, err_msg=name)


def test_float32_inside() -> None:
    shapes = [jax.ShapeDtypeStruct(SHAPE, jax.numpy.bfloat16), jax.ShapeDtypeStruct(SHAPE[:2], bool)]
    for name, (total, weight, gradient) in jax.eval_shape(all_losses, *shapes, arguments(*SHAPE)).items():
        assert (total.dtype, weight.dtype, gradient.dtype) == (np.float32, np.float32, shapes[0].dtype), name


def test_devices() -> None:
    """Sums, weights and gradients of vectors split over two and over eight devices equal those of one."""
    differences = results_on_eight("tests/tasks/embeddings/losses_on_devices.py")
    assert differences.keys() == LOSSES.keys()
    for name, values in differences.items():
        assert len(values) == 6 and max(values) < 1e-6, f"{name}: {values}"
