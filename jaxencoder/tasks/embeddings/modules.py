"""Layers that follow the pooling, which are trained with the encoder."""

from typing import Literal

from jaxencoder.model.sentence import Dense, Module

Activation = Literal["identity", "tanh"]


def with_projection(
    modules: tuple[Module, ...], inputs: int, outputs: int, activation: Activation = "identity"
) -> tuple[Module, ...]:
    """The layers after a pooling of size `inputs`: a projection to `outputs`, which may be there already.

    Raises:
        ValueError: there are other layers.
    """
    projection = Dense(inputs, outputs, activation=activation)
    if modules not in ((), (projection,)):
        kinds = ", ".join(type(module).__name__ for module in modules)
        problem = f"objective.projection is {outputs}, but init_from has the modules {kinds} after pooling"
        raise ValueError(f"{problem}; leave it out to train those.")
    return (projection,)
