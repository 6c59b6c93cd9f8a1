"""The choice of a backend by window, length and device; a request holds for the layers that it supports."""

import pytest

from jaxencoder.kernels.choice import _warn_slower
from jaxencoder.kernels.choice import choose_backend as choose
from jaxencoder.kernels.inputs import AttentionOptions, Backend, Name


def choose_backend(
    backend: Backend, T: int, window: int = 0, dropout: float = 0.0, causal: bool = False, **layer
) -> Name:
    return choose(AttentionOptions(window, dropout, backend, causal=causal), T, **layer)


def on(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _warn_slower.cache_clear()
    monkeypatch.setattr("jaxencoder.kernels.choice.platform", lambda: platform)


@pytest.mark.parametrize(
    ("backend", "T", "window", "cpu", "gpu", "tpu"),
    [
        ("auto", 256, 64, "dense", "dense", "dense"),
        ("auto", 257, 64, "banded", "banded", "single_pass"),
        ("auto", 256, 0, "dense", "dense", "dense"),
        ("auto", 257, 0, "chunked", "triton", "single_pass"),
        ("auto", 1025, 0, "chunked", "triton", "splash"),
        ("auto", 8192, 256, "banded", "banded", "single_pass"),
        ("auto", 8192, 257, "banded", "banded", "splash"),
        ("banded", 16, 64, "banded", "banded", "banded"),
        ("banded", 8192, 0, "chunked", "triton", "splash"),
        ("chunked", 8192, 64, "banded", "banded", "single_pass"),
        ("chunked", 16, 0, "chunked", "chunked", "chunked"),
        ("dense", 8192, 64, "dense", "dense", "dense"),
        ("dense", 8192, 0, "dense", "dense", "dense"),
        ("single_pass", 64, 64, "single_pass", "single_pass", "single_pass"),
        ("splash", 64, 64, "splash", "splash", "splash"),
        ("tiled", 64, 0, "tiled", "tiled", "tiled"),
        ("triton", 8192, 64, "banded", "banded", "single_pass"),
    ],
)
def test_of_a_plain_layer(backend, T, window, cpu, gpu, tpu, monkeypatch):
    for platform, chosen in (("cpu", cpu), ("gpu", gpu), ("tpu", tpu)):
        on(platform, monkeypatch)
        assert choose_backend(backend, T, window) == chosen, platform


@pytest.mark.parametrize("layer", [{"relative": True}, {"dropout": 0.1}])
def test_tpu_layers_that_splash_does_not_support(layer, monkeypatch, caplog):
    on("tpu", monkeypatch)
    assert choose_backend("auto", 512, 0, **layer) == "tiled" and choose_backend("auto", 128, 0, **layer) == "dense"
    assert not caplog.records
    assert choose_backend("auto", 512, 64, **layer) == choose_backend("auto", 1024, 64, **layer) == "banded"
    assert len(caplog.records) == 1 and "slower backend 'banded': 'splash' does not support" in caplog.text
    for T in (65536, 65537):
        assert choose_backend("auto", T, 0, **layer, tiled_fits=False) == "chunked"
    assert len(caplog.records) == 2 and "'tiled' does not support rows this long" in caplog.text


@pytest.mark.parametrize("layer", [{"relative": True}, {"dropout": 0.1}, {"length_shards": 2}, {"triton_runs": False}])
def test_gpu_layers_that_triton_does_not_support(layer, monkeypatch, caplog):
    on("gpu", monkeypatch)
    assert choose_backend("auto", 512, 0, **layer) == "chunked" and choose_backend("auto", 512, 8, **layer) == "banded"
    assert choose_backend("auto", 128, 0, **layer) == "dense"
    assert len(caplog.records) == 1 and "slower backend 'chunked': 'triton' does not support" in caplog.text


@pytest.mark.parametrize(
    ("backend", "layer", "missing"),
    [
        ("single_pass", {"relative": True}, "terms by distance"),
        ("single_pass", {"length_shards": 2}, "rows that 2 devices share"),
        ("splash", {"relative": True}, "terms by distance"),
        ("splash", {"dropout": 0.1}, "dropout 0.1 of attention weights"),
        ("tiled", {"tiled_fits": False}, "rows of 512 tokens"),
        ("tiled", {"causal": True}, "causal attention"),
        ("splash", {"causal": True, "length_shards": 2}, "causal attention over rows that 2 devices share"),
        ("triton", {"relative": True}, "terms by distance"),
        ("triton", {"length_shards": 2}, "rows that 2 devices share"),
        ("triton", {"triton_runs": False}, "these GPUs or this jax version: it needs compute capability 8.0"),
    ],
)
def test_a_requested_kernel_must_support_the_layer(backend, layer, missing):
    with pytest.raises(ValueError, match=f"backend '{backend}' does not support {missing}"):
        choose_backend(backend, 512, 0, **layer)


@pytest.mark.parametrize("window", [0, 64])
def test_older_tpus(window, monkeypatch):
    on("tpu", monkeypatch)
    monkeypatch.setattr("jaxencoder.kernels.single_pass.before_tpu_v5", lambda: True)
    assert choose_backend("auto", 512, window) == "splash"
    with pytest.raises(ValueError, match="'single_pass' does not support these chips: it needs TPU v5 or newer"):
        choose_backend("single_pass", 512, window)


@pytest.mark.parametrize(("T", "window", "missing"), [(2048, 0, "rows of 2048 tokens"), (2048, 300, "windows of 300")])
def test_single_pass_must_fit(T, window, missing):
    with pytest.raises(ValueError, match=f"backend 'single_pass' does not support {missing}"):
        choose_backend("single_pass", T, window)


@pytest.mark.parametrize(
    ("backend", "T", "chosen"),
    [("auto", 257, "banded"), ("auto", 256, "dense"), ("dense", 999, "dense"), ("splash", 16, "banded")],
)
def test_global_tokens_have_two_backends(backend, T, chosen, monkeypatch):
    on("tpu", monkeypatch)
    assert choose_backend(backend, T, 64, global_tokens=True) == chosen
