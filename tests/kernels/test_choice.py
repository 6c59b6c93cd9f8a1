"""The choice of a backend: by the window, the length and the device; forced for the layers that it is meant for."""

import logging

import pytest

from jaxencoder.kernels.choice import _slower, choose_backend


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


@pytest.mark.parametrize("what", [{"relative": True}, {"dropout": 0.1}])
def test_what_splash_attention_lacks(what, monkeypatch, caplog):
    on("tpu", monkeypatch)
    _slower.cache_clear()
    assert choose_backend("auto", 512, 0, **what) == "tiled" and choose_backend("auto", 128, 0, **what) == "dense"
    with caplog.at_level(logging.WARNING):
        assert choose_backend("auto", 512, 64, **what) == choose_backend("auto", 1024, 64, **what) == "banded"
    assert len(caplog.records) == 1 and "slower backend 'banded'" in caplog.text
    _slower.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert choose_backend("auto", 65536, 0, **what, tiles=False) == "chunked"
    assert len(caplog.records) == 2 and "too long for tiled attention" in caplog.text
    with pytest.raises(ValueError, match="'splash' has no (scores by distance|dropout 0.1)"):
        choose_backend("splash", 512, 0, **what)


@pytest.mark.parametrize("what", [{"relative": True}, {"dropout": 0.1}, {"split": 2}])
def test_what_the_kernel_for_gpus_lacks(what, monkeypatch, caplog):
    on("gpu", monkeypatch)
    _slower.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert (
            choose_backend("auto", 512, 0, **what) == "chunked" and choose_backend("auto", 512, 8, **what) == "banded"
        )
    assert len(caplog.records) == 1 and "slower backend 'chunked'" in caplog.text
    with pytest.raises(ValueError, match="'triton' (has no (scores by distance|dropout 0.1)|takes whole rows)"):
        choose_backend("triton", 512, 0, **what)


def test_gpus_without_the_kernel(monkeypatch, caplog):
    on("gpu", monkeypatch)
    _slower.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert choose_backend("auto", 512, 0, triton=False) == "chunked"
        assert choose_backend("auto", 256, 0, triton=False) == "dense"
    assert len(caplog.records) == 1 and "the kernel for GPUs is not made for these" in caplog.text
    with pytest.raises(ValueError, match="'triton' needs NVIDIA GPUs of compute capability 8.0"):
        choose_backend("triton", 512, 0, triton=False)


@pytest.mark.parametrize(
    ("backend", "T", "chosen"),
    [("auto", 257, "banded"), ("auto", 256, "dense"), ("dense", 999, "dense"), ("splash", 16, "banded")],
)
def test_global_tokens_have_two_backends(backend, T, chosen, monkeypatch):
    on("tpu", monkeypatch)
    assert choose_backend(backend, T, 64, global_tokens=True) == chosen
