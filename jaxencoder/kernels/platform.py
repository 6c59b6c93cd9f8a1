"""The kind of devices that a program is made for, which need not be those of this process."""

import jax


def platform() -> str:
    """cpu, gpu or tpu: of the mesh in use (`jax.set_mesh`), else of this process.

    A mesh of `jax.experimental.topologies` gives the program of a machine that is not there.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform
