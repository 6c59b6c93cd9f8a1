"""Who may import whom, read from the source: text knows no model, a model no training, a library has one home."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "jaxencoder"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

# First match wins: file -> what it may import of this package. A folder's own files may always import each other.
DIRECTIONS = {
    "__init__.py": ("api", "config", "training.loop"),
    "api.py": ("inference", "model.heads", "checkpoints"),
    "__main__.py": ("cli",),
    "cli/*": ("",),
    "arguments.py": (),
    "describe/*": ("",),
    "settings.py": ("arguments",),
    "files.py": (),
    "config.py": (
        "adapters.bottleneck",
        "adapters.lora",
        "model.config",
        "objectives",
        "sharding",
        "tasks",
        "text.config",
        "training.config",
    ),
    "config_io.py": ("config", "files", "settings"),
    "parameters.py": (),
    "sharding.py": ("parameters",),
    "text/tokenizers/*": ("text.config",),
    "text/*": ("text",),
    "kernels/*": ("sharding",),
    "model/config.py": (),
    "model/layers.py": ("model.config", "kernels", "sharding"),
    "model/positions.py": ("model.config", "model.layers"),
    "model/attention.py": ("model.config", "model.layers", "model.positions", "kernels", "sharding"),
    "model/encoder.py": ("model.config", "model.layers", "model.positions", "model.attention", "kernels", "sharding"),
    "model/flops.py": ("model.config",),
    "model/*": ("kernels", "sharding"),
    "families/*": ("model", "parameters"),
    "objectives/*": ("model", "kernels", "sharding"),
    "adapters/peft*": ("families", "model", "objectives", "parameters"),
    "adapters/*": ("model", "objectives", "parameters", "sharding"),
    "training/optimizers.py": ("parameters",),
    "training/step.py": ("objectives",),
    "training/*": (
        "config",
        "config_io",
        "tasks",
        "kernels.platform",
        "model",
        "objectives",
        "parameters",
        "text",
        "sharding",
        "adapters",
        "files",
        "checkpoints",
    ),
    "evaluation/*": (
        *("config", "config_io", "model", "objectives", "text", "training", "sharding", "inference", "adapters"),
        *("files", "checkpoints", "tasks"),
    ),
    "tasks/*": (
        "evaluation",
        *("config", "config_io", "model", "objectives", "text", "training", "sharding", "inference", "adapters"),
        *("files", "checkpoints"),
    ),
    "checkpoints/orbax.py": (),
    "checkpoints/*": (
        *("adapters", "config", "config_io", "families", "files", "model", "objectives", "parameters", "tasks"),
        *("text", "training.layerwise"),
    ),
    "inference/*": (
        *("checkpoints",),
        *(
            "config",
            "config_io",
            "model",
            "objectives",
            "parameters",
            "text",
            "training",
            "sharding",
            "families",
            "adapters",
        ),
        *("files", "kernels"),
    ),
}

# Library -> the files that may import it.
HOMES = {
    "flax": ("model/*", "objectives/*", "adapters/*"),
    "orbax": ("checkpoints/orbax.py",),
    "tensorflow_datasets": ("text/sources/tfds.py",),
    "sentencepiece": ("text/tokenizers/*",),
    "tokenizers": ("text/tokenizers/*",),
    "icu4py": ("text/sentences.py",),
    "tensorboardX": ("training/telemetry.py",),
    "cattrs": ("settings.py",),
    "tyro": ("arguments.py", "cli/*"),
    "optax": ("training/*",),
    "safetensors": ("checkpoints/weights.py",),
    "huggingface_hub": ("checkpoints/hub.py",),
    "rich": ("describe/format.py",),
    "matplotlib": ("evaluation/plots.py",),
}


def imports(source: str, file: str) -> Iterator[str]:
    """Dotted names that a file imports, wherever in it the statement stands."""
    package = ("jaxencoder/" + file).split("/")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from jaxencoder.model import config` names a module, `from jaxencoder.model.config import X` does not.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def violations(source: str, file: str) -> list[str]:
    """What `file` imports and must not."""
    own = file.rpartition("/")[0].replace("/", ".")
    allowed = next((names for pattern, names in DIRECTIONS.items() if fnmatch(file, pattern)), None)
    if allowed is None:
        return [f"jaxencoder/{file} is not in DIRECTIONS: say there what it may import"]
    strict = file.startswith("model/") and file in DIRECTIONS  # within model, only leftwards
    allowed = (*allowed, "__version__") if strict or not own else (*allowed, own, "__version__")
    found = []
    for name in imports(source, file):
        top, _, inner = name.partition(".")
        if top == "jaxencoder":
            if not any(part == "" or f"{inner}.".startswith(f"{part}.") for part in allowed):
                found.append(f"{file} imports {name}")
        elif top == "jax" and file.startswith("text/") and file != "text/batches.py":
            found.append(f"{file} imports jax: preparing text must start fast, and in many processes")
        elif top in HOMES and not any(fnmatch(file, pattern) for pattern in HOMES[top]):
            found.append(f"{file} imports {top}, whose home is {', '.join(HOMES[top])}")
    return found


@pytest.mark.parametrize("file", FILES)
def test_direction(file):
    assert violations((PACKAGE / file).read_text(encoding="utf-8"), file) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("text/rows.py", "import jax"),
        ("text/rows.py", "def f():\n    import flax.linen as nn"),
        ("text/rows.py", "from jaxencoder.model.config import EncoderConfig"),
        ("text/rows.py", "from ..model import config"),
        ("text/tokenizers/tokenizer.py", "from jaxencoder import config"),
        ("model/layers.py", "from jaxencoder.model.attention import Attention"),
        ("model/encoder.py", "from jaxencoder.model import heads"),
        ("model/heads.py", "from jaxencoder.objectives.mlm import MaskedLM"),
        ("kernels/attention.py", "from jaxencoder.model.config import EncoderConfig"),
        ("training/step.py", "from jaxencoder.config import RunConfig"),
        ("training/loop.py", "from jaxencoder.evaluation import evaluate"),
        ("training/loop.py", "import orbax.checkpoint as ocp"),
        ("training/step.py", "import flax"),
        ("objectives/mlm.py", "import optax"),
        ("new.py", ""),
    ],
)
def test_wrong_direction_is_found(file, source):
    assert violations(source, file)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("text/batches.py", "import jax\nfrom jaxencoder.text.store import Store"),
        ("text/rows.py", "from . import store"),
        ("model/encoder.py", "from jaxencoder.model.attention import Attention\nimport flax.linen as nn"),
        ("training/loop.py", "from jaxencoder.config import RunConfig"),
        ("cli/runs.py", "from jaxencoder.training.loop import train"),
    ],
)
def test_right_direction_passes(file, source):
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
    ],
)
def test_import_stays_light(statement, absent):
    code = f"import sys; {statement}; print(*{absent!r} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "", "")
