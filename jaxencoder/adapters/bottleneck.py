"""Bottleneck adapters (`model.layers.Bottleneck`): their trainable parameters, and adding them to a model without any.

Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2021, arXiv:2005.00247.
"""

from jaxencoder.objectives.objective import Params

TRAINABLE = (r"^(?!encoder/)", r"_bottleneck/")  # the heads and the adapters; the rest of the encoder is frozen


def add_missing_bottlenecks(params: Params, fresh: Params) -> Params:
    """Parameters of an encoder with the adapters of `fresh` added; existing adapters and other parameters stay."""
    result = dict(params)
    for name, part in fresh.items():
        if name.endswith("_bottleneck"):
            result.setdefault(name, part)
        elif isinstance(part, dict) and isinstance(params.get(name), dict):
            result[name] = add_missing_bottlenecks(params[name], part)
    return result
