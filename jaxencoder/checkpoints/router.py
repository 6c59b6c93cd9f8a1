"""The Router of sentence-transformers: the modules of queries and the modules of documents, in one folder."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple, get_args

from jaxencoder.checkpoints.sentence_keys import check_keys
from jaxencoder.checkpoints.sentence_settings import ModuleEntry
from jaxencoder.config_io import CONFIG_FILE
from jaxencoder.files import read_json, write_json
from jaxencoder.model.config import Role

_ROUTER_FILE = "router_config.json"


class Routes(NamedTuple):
    """The modules of a Router by role."""

    file: Path  # that lists them
    query: list[ModuleEntry]
    document: list[ModuleEntry]
    default_role: Role  # of texts of which it is not said


def read_routes(folder: Path) -> Routes:
    """Read the routes in the folder of a Router; ValueError for other ones than of queries and of documents."""
    older = folder / CONFIG_FILE
    file = older if older.is_file() and not (folder / _ROUTER_FILE).is_file() else folder / _ROUTER_FILE
    config = read_json(file, dict)
    check_keys(config, "Router", file)
    types, structure, parameters = (config.get(name) for name in ("types", "structure", "parameters"))
    if not isinstance(types, dict) or not isinstance(structure, dict) or not isinstance(parameters, dict):
        raise ValueError(f"{file} has no types, structure and parameters of routes; save the model again")
    check_keys(parameters, "routes", f"parameters in {file}")
    if set(structure) != set(get_args(Role)) or not all(structure.values()):
        raise ValueError(f"{file} has the routes {', '.join(structure)}; query and document are needed, with modules")
    routes: dict[str, list[ModuleEntry]] = {}
    for role, names in structure.items():
        for name in names:
            if not isinstance(name, str) or ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
                raise ValueError(f"{file} has a module in {name!r}, which is outside the folder")
            path = str(types.get(name, ""))
            if path.partition(".")[0] != "sentence_transformers":
                raise ValueError(f"{file} has a module {path!r}, which is not of sentence-transformers itself")
            routes.setdefault(role, []).append(ModuleEntry(path.rpartition(".")[2], path, folder / name))
    # Without a default route, sentence-transformers takes the first one.
    return Routes(file, **routes, default_role=parameters.get("default_route") or next(iter(structure)))


def write_routes(folder: Path, classes: Mapping[Role, Mapping[str, str]], default_role: Role) -> None:
    """Write the file of `read_routes`; `classes` are, by role, from the folders of modules to their classes."""
    types = {name: path for modules in classes.values() for name, path in modules.items()}
    structure = {role: list(modules) for role, modules in classes.items()}
    parameters = {"default_route": default_role, "allow_empty_key": True, "route_mappings": {}}
    write_json(folder / _ROUTER_FILE, {"types": types, "structure": structure, "parameters": parameters})
