"""The order of imports, read from the source: no cycles, folders import earlier ones, a library has one home."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

import jaxencoder

PACKAGE = Path(jaxencoder.__file__).parent
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

# A module belongs to the longest entry that begins its name. It may import from that entry and from earlier ones.
ORDER = [
    "version",
    "arguments",
    "files",
    "ray_cluster",
    "parameters",
    "sharding",
    "settings",
    "text.config",
    "text.tokenizers",
    "text",
    "kernels",
    "model.config",
    "model.layers",
    "model.positions",
    "model.attention",
    "model.encoder",
    "model",
    "objectives",
    "families",
    "adapters",
    "tasks",
    "training.held_out",
    "training.config",
    "training.layerwise",
    "training.schedules",
    "training.optimizers",
    "config",
    "config_io",
    "checkpoints",
    "inference",
    "evaluation.text_pairs",
    "evaluation.vectors",
    "evaluation.similarity",
    "evaluation.pair_classification",
    "evaluation.triplets",
    "evaluation.bitext",
    "evaluation.retrieval",
    "training",
    "evaluation",
    "mining",
    "bulk",
    "describe",
    "export",
    "api",
    "serving.config",
    "serving",
    "mteb",
    "cli",
    "__main__",
]

# Tasks whose encoding runs in worker processes, which must start fast.
WITH_DATA = [path.parent.name for path in sorted(PACKAGE.glob("tasks/*/data.py"))]

# Library -> the files that may import it.
HOMES = {
    "flax": ("model/*", "objectives/*", "tasks/*", "adapters/*"),
    "orbax": ("checkpoints/orbax.py",),
    "tensorflow_datasets": ("text/sources/tfds.py",),
    "sentencepiece": ("text/tokenizers/*",),
    "tokenizers": ("text/tokenizers/*",),
    "icu4py": ("text/sentences.py",),
    "onnx": ("export/onnx_*",),
    "onnxruntime": ("export/onnx_*",),
    "tensorboardX": ("training/telemetry.py",),
    "cattrs": ("settings.py",),
    "tyro": ("arguments.py", "cli/*"),
    "optax": ("training/*",),
    "safetensors": ("checkpoints/weights.py",),
    "huggingface_hub": ("checkpoints/hub.py", "checkpoints/weights.py"),
    "rich": ("describe/format.py",),
    "fastapi": ("serving/*",),
    "matplotlib": ("evaluation/report.py",),
    "ray": ("ray_cluster.py",),
}
# Preparing text must start fast, and in many processes.
WITHOUT_JAX, BATCHES = ("text/*", "arguments.py", "files.py", "settings.py"), "text/batches.py"


def module_name(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_name(file) for file in FILES}


def imports(source: str, file: str) -> Iterator[str]:
    """Dotted names that a file imports, wherever in it the statement stands; of this package modules alone."""
    package = ("jaxencoder/" + file).split("/")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:  # `from jaxencoder.model import config` names a module
                name = f"{module}.{alias.name}"
                yield name if name.removeprefix("jaxencoder.") in MODULES else module


def project_imports(source: str, file: str) -> set[str]:
    names = (name.partition(".") for name in imports(source, file))
    return {inner for top, _, inner in names if top == "jaxencoder"} - {module_name(file)}


def entry(module: str) -> int:
    """The position in ORDER; -1 for a module that has none."""
    matches = [name for name in ORDER if f"{module}.".startswith(f"{name}.")]
    return ORDER.index(max(matches, key=len)) if matches else -1


def violations(source: str, file: str) -> list[str]:
    """The imports of a file that it must not have."""
    if file == "__init__.py":  # the table of contents
        return []
    module, problems = module_name(file), []
    if entry(module) < 0:
        problems.append(f"jaxencoder/{file} is not in ORDER: add where it belongs")
    for name in project_imports(source, file):
        if entry(name or "cli") > entry(module):  # the package itself is for the command line
            problems.append(f"{file} imports {name or 'the package itself'}, which comes later in ORDER")
    for top in {name.partition(".")[0] for name in imports(source, file)}:
        if not any(fnmatch(file, pattern) for pattern in HOMES.get(top, "*")):
            problems.append(f"{file} imports {top}, whose home is {', '.join(HOMES[top])}")
        if top == "jax" and file != BATCHES and any(fnmatch(file, pattern) for pattern in WITHOUT_JAX):
            problems.append(f"{file} imports jax")
    return problems


@pytest.mark.parametrize("file", FILES)
def test_order(file):
    source = (PACKAGE / file).read_text(encoding="utf-8")
    assert violations(source, file) == []
    assert file == "__init__.py" or "TYPE_CHECKING" not in source  # hides a cycle


def test_no_cycles():
    graph = {module_name(f): project_imports((PACKAGE / f).read_text(encoding="utf-8"), f) for f in FILES}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("text/rows.py", "import jax"),
        ("text/rows.py", "def f():\n    import flax.linen as nn"),
        ("text/rows.py", "from jaxencoder.model.config import EncoderConfig"),
        ("text/rows.py", "from ..model import config"),
        ("text/config.py", "from jaxencoder.text.cache import prepare"),
        ("text/workers.py", "from jaxencoder import config"),
        ("text/workers.py", "from jaxencoder import __version__"),
        ("model/layers.py", "from jaxencoder.model.attention import Attention"),
        ("model/encoder.py", "from jaxencoder.model import heads"),
        ("model/heads.py", "from jaxencoder.objectives.mlm import MaskedLM"),
        ("kernels/attention.py", "from jaxencoder.model.config import EncoderConfig"),
        ("training/loop.py", "from jaxencoder.evaluation import evaluate"),
        ("training/loop.py", "import orbax.checkpoint as ocp"),
        ("training/step.py", "import flax"),
        ("objectives/mlm.py", "import optax"),
        ("new.py", ""),
    ],
)
def test_wrong_import_is_found(file, source):
    assert violations(source, file)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("text/batches.py", "import jax\nfrom jaxencoder.text.store import Store"),
        ("text/rows.py", "from . import store"),
        ("model/encoder.py", "from jaxencoder.model.attention import Attention\nimport flax.linen as nn"),
        ("training/loop.py", "from jaxencoder.config import RunConfig"),
        ("cli/main.py", "from jaxencoder.training.loop import train"),
    ],
)
def test_right_import_passes(file, source):
    assert violations(source, file) == []


def test_every_folder_is_a_package():
    """setup.py finds packages by __init__.py: a folder without one would be missing from the wheel."""
    folders = {(PACKAGE / file).parent for file in FILES}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import jaxencoder", {"jax", "numpy", "flax", "tyro"}),
        ("import jaxencoder.cli.main", {"jax", "numpy", "flax"}),
        ("import jaxencoder.text.config, jaxencoder.settings", {"jax", "flax"}),
        *((f"import jaxencoder.tasks.{task}.data", {"jax", "flax"}) for task in WITH_DATA),
    ],
)
def test_import_stays_light(statement, absent):
    code = f"import sys; {statement}; print(*{absent!r} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "", "")


def test_public_names():
    """Type checkers and users see the same names."""
    block = next(node for node in ast.parse((PACKAGE / "__init__.py").read_text()).body if isinstance(node, ast.With))
    typed = {alias.name: node.module for node in block.body for alias in node.names}
    assert {*typed, "__version__"} == set(jaxencoder.__all__) == set(dir(jaxencoder))
    for name, module in typed.items():
        assert getattr(jaxencoder, name) is getattr(sys.modules[module], name)
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = jaxencoder.absent


def test_reload():
    """Notebooks with autoreload do it."""
    code = "import importlib, jaxencoder as j; j.MaskedLM; importlib.reload(j).MaskedLM; print(dir(j) == j.__all__)"
    result = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "True", "")
