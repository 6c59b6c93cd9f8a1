"""The platform is that of the mesh in use, whose devices need not be attached."""

from types import SimpleNamespace

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from jaxencoder.kernels import platform as module
from jaxencoder.kernels.platform import any_platform, before_ampere, before_tpu_v5, platform
from jaxencoder.sharding import MeshConfig, make_mesh


def test_of_the_mesh_or_of_the_process():
    assert platform() == jax.default_backend()
    with jax.set_mesh(make_mesh(MeshConfig())):
        assert platform() == jax.devices()[0].platform


@pytest.mark.parametrize(
    ("kind", "platform", "old"),
    [
        ("Tesla T4", "gpu", True),
        ("Tesla V100-SXM2-16GB", "gpu", True),
        ("NVIDIA A100-SXM4-80GB", "gpu", False),
        ("AMD Instinct MI300X", "gpu", False),
        ("TPU v5e", "tpu", False),
        ("cpu", "cpu", False),
    ],
)
def test_gpus_before_ampere_by_name_if_not_attached(kind: str, platform: str, old: bool) -> None:
    mesh = AbstractMesh((), (), abstract_device=AbstractDevice(kind, None, platform))
    with jax.sharding.use_abstract_mesh(mesh):
        assert before_ampere() == old


@pytest.mark.parametrize(
    ("kind", "capability", "old"),
    [("NVIDIA GeForce RTX 2080 Ti", "7.5", True), ("NVIDIA H100", "9.0", False), ("AMD MI250", "gfx90a", False)],
)
def test_gpus_before_ampere_by_capability_if_attached(kind, capability, old, monkeypatch) -> None:
    device = SimpleNamespace(device_kind=kind, compute_capability=capability)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    module._compute_capability.cache_clear()
    assert before_ampere() == old
    module._compute_capability.cache_clear()


@pytest.mark.parametrize(
    ("kind", "platform", "old"),
    [("TPU v4", "tpu", True), ("TPU v5 lite", "tpu", False), ("TPU v5", "tpu", False), ("cpu", "cpu", False)],
)
def test_older_tpus(kind: str, platform: str, old: bool) -> None:
    mesh = AbstractMesh((), (), abstract_device=AbstractDevice(kind, None, platform))
    with jax.sharding.use_abstract_mesh(mesh):
        assert before_tpu_v5() == old


def test_a_program_for_any_platform() -> None:
    with any_platform():
        assert module.platform() == "any" and not before_ampere()
    assert module.platform() == jax.default_backend()
