"""Golden fixtures: outputs of transformers for weights that numpy alone can reproduce, a small file for each family.

`make_golden.py` writes them. Of each case (a family, the number of its model in `peers.MODELS`, a class) a file holds
config.json, the names and shapes of the saved tensors, and the outputs, of the large ones every n-th number.
"""

import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FOLDER = Path(__file__).parent / "golden"
DIGITS = 5  # of an output, after the point
MOST = 120  # numbers of an output
STEPS = (1, 5, 7, 11, 13, 17)  # primes that divide no size of peers.py, so that no column is left out

Shapes = dict[str, tuple[int, ...]]


class Case(NamedTuple):
    """One class of one model.

    Attributes:
        prefix: of the encoder's tensors, which in a file of the encoder alone stand without it.
        config: all of config.json.
        shapes: of the tensors in the saved file, by their names there.
        batch: token ids, attention mask and, where the model has them, types: [B, T], or [1, B, T] of choices.
        outputs: our name of each -> (shape, which numbers, their values); see `sample`.
    """

    prefix: str
    config: dict[str, Any]
    shapes: Shapes
    batch: dict[str, np.ndarray]
    outputs: dict[str, dict[str, Any]]


def weights(shapes: Shapes, prefix: str) -> dict[str, np.ndarray]:
    """Tensors that depend on their names and shapes alone, large enough that each of them matters.

    Args:
        shapes: name -> shape.
        prefix: a name means the same with and without it.
    """
    tensors = {}
    for name, shape in shapes.items():
        seed = zlib.crc32(name.removeprefix(prefix).encode())
        mean = float(len(shape) == 1 and name.endswith("weight"))  # a norm's
        # RandomState, old as it is, because numpy keeps its numbers the same for ever.
        tensors[name] = (0.2 * np.random.RandomState(seed).standard_normal(shape) + mean).astype(np.float32)
    return tensors


def sample(value: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    """The shape of an output and every n-th number at tokens, few enough for a small file."""
    numbers = at_tokens(value, mask)
    step = next(step for step in STEPS if numbers.size / step <= MOST)
    return {"shape": list(value.shape), "step": step, "values": [round(float(x), DIGITS) for x in numbers[::step]]}


def at_tokens(value: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The numbers [N] of an output, without those at padding."""
    return value[mask.astype(bool) if value.shape[: mask.ndim] == mask.shape else np.s_[:]].reshape(-1)


def assert_golden(got: Mapping[str, np.ndarray], case: Case, atol: float, message: str = "") -> None:
    """Check that all outputs at tokens equal those of a fixture."""
    assert case.outputs.keys() <= got.keys() <= case.outputs.keys() | {"pooled"}
    for name, expected in case.outputs.items():
        assert list(got[name].shape) == expected["shape"], name
        numbers = at_tokens(got[name], case.batch["attention_mask"])[:: expected["step"]]
        np.testing.assert_allclose(numbers, expected["values"], atol=atol, rtol=0, err_msg=f"{name} {message}")


# Files: the common parts of a model's classes are stored once.


@cache
def read(family: str) -> dict[str, Any]:
    """The content of a family's file."""
    path = FOLDER / f"{family}.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run python -m tests.families.make_golden")
    return json.loads(path.read_text())


def golden(family: str, number: int, kind: str) -> Case:
    """A case of the fixtures."""
    model = read(family)["models"][number]
    case = model["classes"][kind]
    config = merged(model["config"], case["config"])
    shapes = expanded(model["tensors"] | case["tensors"])
    if case["bare"]:
        shapes = {name.removeprefix(model["prefix"]): shape for name, shape in shapes.items()}
    batch = {name: np.array(x) for name, x in model["batch"].items()}
    outputs = {
        name: model["classes"][output]["outputs"][name] if isinstance(output, str) else output
        for name, output in case["outputs"].items()
    }
    return Case(model["prefix"], config, shapes, choices(batch, kind), outputs)


def choices(batch: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """The batch as a question of three choices where the class wants choices."""
    return {name: x[None] for name, x in batch.items()} if kind == "ForMultipleChoice" else batch


def entry(settings: dict[str, Any], cases: Mapping[str, Case]) -> dict[str, Any]:
    """What `golden` reads back: a model's part of a file.

    Args:
        settings: of `peers.MODELS`.
        cases: of each class; the others are told by how they differ from the first, which has plain rows.
    """
    first = next(iter(cases.values()))
    prefix = first.prefix
    named = {}
    for kind, case in cases.items():
        bare = not any(name.startswith(prefix) for name in case.shapes)
        named[kind] = {prefix + name if bare else name: shape for name, shape in case.shapes.items()}, bare
    shared = {
        name: shape
        for name, shape in named[next(iter(named))][0].items()
        if all(shapes.get(name) == shape for shapes, _ in named.values())
    }
    classes = {}
    for kind, case in cases.items():
        shapes, bare = named[kind]
        specific = {name: shape for name, shape in shapes.items() if name not in shared}
        outputs = {}
        for name, value in case.outputs.items():
            same = (other for other in classes if close(classes[other]["outputs"].get(name), value))
            outputs[name] = next(same, value)
        changes = difference(first.config, case.config)
        classes[kind] = {"bare": bare, "config": changes, "tensors": collapsed(specific), "outputs": outputs}
    return {
        "settings": settings,
        "prefix": prefix,
        "batch": {name: x.tolist() for name, x in first.batch.items()},
        "config": first.config,
        "tensors": collapsed(shared),
        "classes": classes,
    }


def merged(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json with changes to its settings; null takes one away (as RFC 7396 has it)."""
    return {name: value for name, value in {**config, **changes}.items() if changes.get(name, 0) is not None}


def difference(config: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The changes that make one config.json another."""
    changes = dict.fromkeys(name for name in config if name not in other)
    changes |= {name: value for name, value in other.items() if name not in config or config[name] != value}
    assert merged(config, changes) == other
    return changes


def collapsed(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Names that differ in their numbers alone as one, with ranges: a.{0-1}.b for a.0.b and a.1.b of one shape."""
    groups: dict[tuple[str, tuple[int, ...]], list[tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        pattern = re.sub(r"\.\d+\.", ".#.", name)
        groups.setdefault((pattern, shape), []).append(tuple(map(int, re.findall(r"\.(\d+)\.", name))))
    names = {}
    for (pattern, shape), numbers in groups.items():
        ranges = [(min(axis), max(axis)) for axis in zip(*numbers, strict=True)]
        is_product = math.prod(last - first + 1 for first, last in ranges) == len(numbers)
        for one in [ranges] if is_product else [[(n, n) for n in at] for at in numbers]:
            name = pattern
            for first, last in one:
                name = name.replace("#", str(first) if first == last else f"{{{first}-{last}}}", 1)
            names[name] = shape
    assert expanded(names) == shapes
    return names


def expanded(names: Mapping[str, Iterable[int]]) -> Shapes:
    """The names and shapes that `collapsed` wrote."""
    shapes = {}
    for name, shape in names.items():
        *parts, end = re.split(r"\{(\d+-\d+)\}", name)
        ranges = [range(int(a), int(b) + 1) for a, b in (part.split("-") for part in parts[1::2])]
        for numbers in product(*ranges):
            pairs = zip(parts[::2], numbers, strict=True)
            shapes["".join(f"{part}{number}" for part, number in pairs) + end] = tuple(shape)
    return shapes


def close(a: Any, b: Any) -> bool:
    """Whether two contents say the same: versions may differ, and outputs by their rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() == b.keys() == {"shape", "step", "values"}:
            same = a["shape"] == b["shape"] and a["step"] == b["step"]
            return same and np.allclose(a["values"], b["values"], rtol=0, atol=2 * 10**-DIGITS)
        versions = {"transformers", "torch", "transformers_version"}
        return a.keys() == b.keys() and all(close(a[name], b[name]) for name in a.keys() - versions)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(close, a, b))
    return a == b


def write(family: str, content: dict[str, Any]) -> bool:
    """Write a family's file unless an equal one exists; True if it was written."""
    path, content = FOLDER / f"{family}.json", json.loads(json.dumps(content))
    if path.exists() and close(read(family), content):
        return False
    path.parent.mkdir(exist_ok=True)
    path.write_text(formatted(content) + "\n")
    return True


def formatted(content: Any, indent: str = "") -> str:
    """JSON with each setting, tensor and output on a separate line."""
    if isinstance(content, dict) and "values" not in content and content:
        deeper = indent + " "
        items = [f"{deeper}{json.dumps(name)}: {formatted(value, deeper)}" for name, value in content.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(content, list) and content and isinstance(content[0], dict):
        return "[" + ", ".join(formatted(value, indent) for value in content) + "]"
    return json.dumps(content, separators=(",", ":"))
