"""The choice of a backend by window, length and device; a request holds for the layers that it supports."""

import logging

import pytest

from jaxencoder.kernels.choice import _warn_slower
from jaxencoder.kernels.choice import choose_backend as choose
from jaxencoder.kernels.inputs import AttentionOptions, Backend, Name


def choose_backend(backend: Backend, T: int, window: int = 0, dropout: float = 0.0, **layer) -> Name:
    return choose(AttentionOptions(window, dropout, backend), T, **layer)


def on(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxencoder.kernels.choice.platform", lambda: platform)


@pytest.mark.parametrize(
    ("backend", "T", "window", "cpu", "gpu", "tpu"),
    [
        ("auto", 256, 64, "dense", "dense", "dense"),
        ("auto", 257, 64, "banded", "banded", "splash"),
        ("auto", 256, 0, "dense", "dense", "dense"),
        ("auto", 257, 0, "chunked", "triton", "splash"),
        ("banded", 16, 64, "banded", "banded", "banded"),
        ("banded", 8192, 0, "chunked", "triton", "splash"),
        ("chunked", 8192, 64, "banded", "banded", "splash"),
        ("chunked", 16, 0, "chunked", "chunked", "chunked"),
        ("dense", 8192, 64, "dense", "dense", "dense"),
        ("dense", 8192, 0, "dense", "dense", "dense"),
        ("splash", 64, 64, "splash", "splash", "splash"),
        ("tiled", 64, 0, "tiled", "tiled", "tiled"),
        ("triton", 8192, 64, "banded", "banded", "splash"),
    ],
)
def test_of_a_plain_layer(backend, T, window, cpu, gpu, tpu, monkeypatch):
    for platform, chosen in (("cpu", cpu), ("gpu", gpu), ("tpu", tpu)):
        on(platform, monkeypatch)
        assert choose_backend(backend, T, window) == chosen, platform


@pytest.mark.parametrize("layer", [{"relative": True}, {"dropout": 0.1}])
def test_tpu_layers_that_splash_does_not_support(layer, monkeypatch, caplog):
    on("tpu", monkeypatch)
    _warn_slower.cache_clear()
    assert choose_backend("auto", 512, 0, **layer) == "tiled" and choose_backend("auto", 128, 0, **layer) == "dense"
    with caplog.at_level(logging.WARNING):
        assert choose_backend("auto", 512, 64, **layer) == choose_backend("auto", 1024, 64, **layer) == "banded"
    assert len(caplog.records) == 1 and "slower backend 'banded'" in caplog.text
    _warn_slower.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert choose_backend("auto", 65536, 0, **layer, tiled_fits=False) == "chunked"
    assert len(caplog.records) == 2 and "too long for tiled attention" in caplog.text
    with pytest.raises(ValueError, match="'splash' does not support (terms by distance|dropout 0.1)"):
        choose_backend("splash", 512, 0, **layer)


@pytest.mark.parametrize("layer", [{"relative": True}, {"dropout": 0.1}, {"length_shards": 2}])
def test_gpu_layers_that_triton_does_not_support(layer, monkeypatch, caplog):
    on("gpu", monkeypatch)
    _warn_slower.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert (
            choose_backend("auto", 512, 0, **layer) == "chunked" and choose_backend("auto", 512, 8, **layer) == "banded"
        )
    assert len(caplog.records) == 1 and "slower backend 'chunked'" in caplog.text
    with pytest.raises(
        ValueError, match="'triton' (does not support (terms by distance|dropout 0.1)|needs whole rows)"
    ):
        choose_backend("triton", 512, 0, **layer)


def test_gpus_without_the_kernel(monkeypatch, caplog):
    on("gpu", monkeypatch)
    _warn_slower.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert choose_backend("auto", 512, 0, triton_runs=False) == "chunked"
        assert choose_backend("auto", 256, 0, triton_runs=False) == "dense"
    assert len(caplog.records) == 1 and "the Triton kernel does not support these GPUs" in caplog.text
    with pytest.raises(ValueError, match="'triton' needs NVIDIA GPUs of compute capability 8.0"):
        choose_backend("triton", 512, 0, triton_runs=False)


@pytest.mark.parametrize(
    ("backend", "T", "chosen"),
    [("auto", 257, "banded"), ("auto", 256, "dense"), ("dense", 999, "dense"), ("splash", 16, "banded")],
)
def test_global_tokens_have_two_backends(backend, T, chosen, monkeypatch):
    on("tpu", monkeypatch)
    assert choose_backend(backend, T, 64, global_tokens=True) == chosen
