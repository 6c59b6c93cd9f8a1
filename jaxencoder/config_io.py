"""Read and write run configurations: recipes, a run's config.json, and command-line overrides.

Recipes are Python because a configuration is documentation that can compute, as in big_vision. A run saves its own
configuration as JSON, which can be read without running code.
"""

import dataclasses
import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

from jaxencoder import settings
from jaxencoder.config import RunConfig, objectives
from jaxencoder.files import read_json, write_atomic
from jaxencoder.objectives.objective import ObjectiveConfig
from jaxencoder.version import __version__

CONFIG_FILE = "config.json"
OLDEST_READABLE = (0, 2)  # the first version whose config.json this version reads
# Pairs in `training` that exclude each other: overriding the first resets the second to 0.
_ALTERNATIVES = {"steps": "epochs", "epochs": "steps", "batch-size": "batch-examples", "eval-every": "num-evaluations"}


def load(target: str | Path, overrides: Sequence[str] = (), prog: str = "jaxencoder train") -> RunConfig:
    """Load a recipe or a run's saved configuration, with overrides applied.

    Args:
        target: path of a recipe (.py with `get_config()`), name of a recipe that comes with jaxencoder, folder of a
            run, or its config.json.
        overrides: command-line words such as ["--training.steps", "60"]; "--help" prints every setting and exits.
        prog: command that the help names.

    Raises:
        ValueError: the target is none of these, an older version wrote it, or a setting is unknown, malformed or
            contradicts another.
        OSError: the file cannot be read.
    """
    path = _find(str(target))
    if path.suffix == ".json":
        config, name = read(path), path.absolute().parent.name
    else:
        config, name = _run_recipe(path), path.stem
    return override(dataclasses.replace(config, name=config.name or name), overrides, f"{prog} {target}", str(target))


def override(config: RunConfig, words: Sequence[str], prog: str = "jaxencoder train", where: str = "") -> RunConfig:
    """A configuration with command-line overrides applied; arguments and errors as in `load`."""
    if words:
        names = {word.partition("=")[0].replace("_", "-") for word in words}
        reset = [alternative for name, alternative in _ALTERNATIVES.items() if f"--training.{name}" in names]
        reset += ["steps"] if config.phases else []  # becomes the sum of the phases' steps again
        config = settings.apply(config, [*(x for name in reset for x in (f"--training.{name}", "0")), *words], prog)
    # Through JSON and back, so that a run has exactly the saved values: types are checked, lists become tuples.
    return from_json(to_json(config), where or CONFIG_FILE)


def to_json(config: RunConfig) -> str:
    """The configuration as indented JSON; `from_json` returns an equal value."""
    return _dumps(settings.to_tree(config, ObjectiveConfig, objectives()))


def from_json(text: str, where: str = CONFIG_FILE) -> RunConfig:
    """Read the JSON of `to_json`; missing settings take their defaults. A ValueError names the file `where`."""
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}") from None
    return settings.from_tree(tree, RunConfig, ObjectiveConfig, objectives(), where)


def save(config: RunConfig, run_dir: str | Path) -> None:
    """Write `run_dir`/config.json atomically, with the version that writes it; the folder must exist."""
    tree = {"version": __version__} | settings.to_tree(config, ObjectiveConfig, objectives())
    write_atomic(Path(run_dir) / CONFIG_FILE, _dumps(tree))


def read(path: Path) -> RunConfig:
    """Read the config.json of a run; ValueError if a version before 0.2 wrote it, or as of `from_json`."""
    tree = read_json(path, dict)
    written_by = str(tree.pop("version", "0.1"))  # version 0.1 did not write the key
    numbers = re.match(r"(\d+)\.(\d+)", written_by)
    if numbers is None or tuple(map(int, numbers.groups())) < OLDEST_READABLE:
        raise ValueError(
            f"{path} was written by jaxencoder {written_by}, whose runs {__version__} cannot read; convert the run "
            f"with version {written_by} (jaxencoder convert RUN FOLDER --to hf), or train again"
        )
    return settings.from_tree(tree, RunConfig, ObjectiveConfig, objectives(), str(path))


def recipes() -> dict[str, Path]:
    """The recipes that come with jaxencoder by name: recipes/ in a wheel, configs/ in a checkout."""
    package = Path(__file__).parent
    folder = next((f for f in (package / "recipes", package.parent / "configs") if f.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("[!_]*.py"))} if folder else {}


def _dumps(tree: dict[str, Any]) -> str:
    return json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _find(target: str) -> Path:
    path = Path(target)
    if path.suffix in (".py", ".json"):
        return path
    if (path / CONFIG_FILE).is_file():
        return path / CONFIG_FILE
    files = recipes()
    if target in files:
        return files[target]
    if path.is_dir():
        raise ValueError(f"{target} is not a run: it has no {CONFIG_FILE}")
    alternatives = f"; give a .py file, a run's {CONFIG_FILE}, or one of {', '.join(files) or 'none'}"
    raise ValueError(f"no recipe is called {target!r}{settings.suggestion(target, files) or alternatives}")


def _run_recipe(path: Path) -> RunConfig:
    spec = importlib.util.spec_from_file_location(f"_recipe_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # as for any .py
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config() if hasattr(module, "get_config") else None
    except TypeError as error:
        raise _unknown_argument(path, error) from error
    if not isinstance(config, RunConfig):
        raise ValueError(f"{path} is not a recipe: it needs a get_config() that returns a jaxencoder.config.RunConfig")
    return config


def _unknown_argument(path: Path, error: TypeError) -> Exception:
    """A clear error for a misspelled setting in a recipe; other errors are returned unchanged."""
    sections = {kind.__name__: kind for kind in (RunConfig, *get_type_hints(RunConfig).values(), *objectives())}
    match = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if match is None or not dataclasses.is_dataclass(sections.get(match[1])):
        return error
    names = [field.name for field in dataclasses.fields(sections[match[1]])]
    return ValueError(f"{path}: {match[1]} has no setting {match[2]!r}{settings.suggestion(match[2], names)}")
