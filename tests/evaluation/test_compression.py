"""Search with truncated and quantized vectors: full vectors as in retrieval, others by their definition."""

import json

import numpy as np
import pytest

from jaxencoder.evaluation.compression import evaluate_compression, search_compressed
from jaxencoder.evaluation.retrieval import ranking_metrics
from jaxencoder.inference.quantize import quantize, value_ranges
from tests.evaluation.conftest import MODEL

RANDOM = np.random.default_rng(0)
QUERIES, DOCUMENTS = (RANDOM.normal(size=(n, 24)).astype(np.float32) for n in (5, 60))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def folder(tmp_path):
    """A BEIR folder of angles, see `embedded`."""
    for name, angles in (("corpus", range(0, 90, 10)), ("queries", (12, 48))):
        lines = (json.dumps({"_id": f"{name[0]}{angle}", "text": str(angle)}) + "\n" for angle in angles)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    (tmp_path / "qrels.tsv").write_text("q12\tc10\t1\nq48\tc50\t1\n")
    return tmp_path


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_bytes(precision):
    found, rescored, count = search_compressed(QUERIES, DOCUMENTS, "cosine", precision, 10, 2)
    queries, documents = unit(QUERIES), unit(DOCUMENTS)
    ranges = value_ranges(documents)
    codes = quantize(documents, precision, ranges).astype(np.int64)
    scores = quantize(queries, precision, ranges).astype(np.int64) @ codes.T
    np.testing.assert_array_equal(found.scores, -np.sort(-scores, axis=1)[:, :10])
    lowest, steps = ranges[0], (ranges[1] - ranges[0]) / 255
    exact = queries @ ((codes + (128 if precision == "int8" else 0)) * steps + lowest).T
    for row in range(len(queries)):
        candidates = np.argsort(-scores[row], kind="stable")[:20]
        expected = candidates[np.argsort(-exact[row, candidates])][:10]
        assert rescored is not None and rescored.indices[row].tolist() == expected.tolist()
    assert count == 24


def test_bits():
    found, rescored, count = search_compressed(QUERIES, DOCUMENTS, "cosine", "binary", 10, 2)
    distances = ((QUERIES > 0)[:, None] != (DOCUMENTS > 0)).sum(-1)
    np.testing.assert_array_equal(found.scores, 24 - 2 * np.sort(distances, axis=1)[:, :10])
    exact = unit(QUERIES) @ np.where(DOCUMENTS > 0, 1, -1).T
    for row in range(len(QUERIES)):
        candidates = np.argsort(distances[row], kind="stable")[:20]
        expected = -np.sort(-exact[row, candidates])[:10]
        assert rescored is not None
        np.testing.assert_allclose(rescored.scores[row], expected, atol=1e-5)
    assert count == 3


@pytest.mark.parametrize("similarity", ["dot", "euclidean", "manhattan"])
def test_rescoring_all_documents_is_nearly_exact(similarity):
    exact, nothing, _ = search_compressed(QUERIES, DOCUMENTS, similarity, "float32", 5, 4)
    _, rescored, _ = search_compressed(QUERIES, DOCUMENTS, similarity, "int8", 5, 12)
    assert nothing is None and rescored is not None
    np.testing.assert_allclose(rescored.scores, exact.scores, atol=0.3)


def test_fewer_documents_than_results():
    found, rescored, _ = search_compressed(QUERIES, DOCUMENTS[:3], "cosine", "binary", 4, 2)
    assert rescored is not None and rescored.indices.shape == (5, 4)
    assert (rescored.indices[:, 3] == -1).all() and (found.indices[:, 3] == -1).all()
    assert sorted(rescored.indices[0, :3].tolist()) == [0, 1, 2]


def test_a_row_for_each_setting(embedded, folder):
    rows = evaluate_compression(MODEL, folder, dimensions=(2, 1), precision=("float32", "ubinary"), rescore=1)
    names = ["2 float32", "2 ubinary", "2 ubinary rescored", "1 float32", "1 ubinary", "1 ubinary rescored"]
    assert list(rows) == names and len(embedded) == 11  # every text once
    full = rows["2 float32"]
    nearest = [["c10"], ["c50"]]
    assert full == {"bytes": 8, "relative": 1.0} | ranking_metrics(nearest, [{"c10": 1}, {"c50": 1}])
    assert [rows[name]["bytes"] for name in names[1:]] == [1, 1, 4, 1, 1]
    # All signs are equal but for 0 degrees. By id, descending, c50 is the fourth and c10 the eighth.
    assert rows["2 ubinary"]["mrr@10"] == (1 / 4 + 1 / 8) / 2
    assert rows["2 ubinary"]["relative"] == rows["2 ubinary"]["ndcg@10"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimensions": (2, 3)}, "dimensions 3 are not in 1 to 2, those of the vectors"),
        ({"rescore": -1}, "rescore is -1; give 0 for no rescoring"),
        ({"split": "dev"}, "no file .*dev.tsv"),
    ],
)
def test_settings_that_do_not_fit(embedded, folder, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluate_compression(MODEL, folder, **options)
