"""The platform is that of the mesh in use, whose devices need not be here."""

import jax

from jaxencoder.kernels.platform import platform
from jaxencoder.sharding import MeshConfig, make_mesh


def test_of_the_mesh_or_of_the_process():
    assert platform() == jax.default_backend()
    with jax.set_mesh(make_mesh(MeshConfig())):
        assert platform() == jax.devices()[0].platform
