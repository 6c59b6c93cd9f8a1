"""The benchmark of attention in long rows: equal models on both sides, exponents, and measured memory."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch (pip install -e '.[peers]')")
transformers = pytest.importorskip("transformers", reason="needs transformers (pip install -e '.[peers]')")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench(monkeypatch):
    """The script, which imports its neighbors as scripts do."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import attention

    return attention


def test_exponent(bench) -> None:
    assert bench.exponent([512, 1024, 4096], [3.0, 6.0, 24.0]) == pytest.approx(1)
    assert bench.exponent([10, 20], [1.0, 4.0]) == pytest.approx(2)


@pytest.mark.parametrize("family", ["deberta", "modernbert"])
def test_both_sides_are_one_model(bench, family: str, tmp_path: Path, monkeypatch) -> None:
    transformers.logging.disable_progress_bar()
    transformers.AutoModel.from_config(bench.torch_config(family, 2, 512, 0.0)).save_pretrained(tmp_path)
    assert 0 < bench.check(str(tmp_path), 24, "eager", "dense") < bench.TOLERANCE
    monkeypatch.setattr(bench, "TOLERANCE", 1e-9)
    with pytest.raises(ValueError, match="outputs of both sides differ"):
        bench.check(str(tmp_path), 24, "eager", "dense")


def test_memory_of_a_step(bench) -> None:
    """A step allocates and frees 64 MiB; memory allocated before it does not count."""
    kept, sent = np.ones(2**23), []

    class Pipe:
        send = sent.append

    bench.send_step_memory(Pipe, lambda size: bench.Side(lambda steps: np.ones(size).sum(), kept[0]), 2**23)
    assert 0.95 * 2**26 < sent[0] < 1.25 * 2**26
