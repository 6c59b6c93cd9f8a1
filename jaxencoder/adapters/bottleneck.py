"""Bottleneck adapters among the parameters: where they stand, and how a model that has none comes by them.

Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2021, arXiv:2005.00247. The module itself is
`model.layers.Bottleneck`; `model.bottleneck` asks for it.
"""

from jaxencoder.objectives.objective import Params

TRAINABLE = (r"^(?!encoder/)", r"_bottleneck/")  # what learns in an encoder with them: the heads and the adapters


def add_missing_bottlenecks(params: Params, fresh: Params) -> Params:
    """Parameters with the adapters of `fresh`, where they have none themselves; all else as it is.

    Args:
        params: of an encoder, with or without adapters.
        fresh: of one with adapters; what else it holds does not matter.
    """
    result = dict(params)
    for name, part in fresh.items():
        if name.endswith("_bottleneck"):
            result.setdefault(name, part)
        elif isinstance(part, dict) and isinstance(params.get(name), dict):
            result[name] = add_missing_bottlenecks(params[name], part)
    return result
