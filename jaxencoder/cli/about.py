"""Verbs that describe models and compute nothing: families, inspect, cost, plan."""

import math
from dataclasses import asdict, dataclass, field
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional, arg

from jaxencoder.cli.verb import Json, RecipeVerb, Verb, default_is

Target = Positional[Annotated[str, arg(metavar="MODEL", help="A model as for embed, or a recipe.")]]
Devices = Annotated[int | None, arg(metavar="N")]


class Families(Verb):
    """List the families of encoders: what is special, sizes, when to choose which.

    Example: jaxencoder families modernbert
    """

    name: Positional[Annotated[str, arg(metavar="NAME")]] = ""
    """Print this family completely, by its title or model_type, or all families whose name begins so."""
    json: Json = False

    def run(self) -> None:
        from jaxencoder.describe import families
        from jaxencoder.describe.format import as_json

        if self.name:
            entries = [families.entry(family) for family in families.families_named(self.name)]
            if self.json:
                print(as_json(entries if len(entries) > 1 else entries[0]))
            else:
                print("\n\n".join(map(families.format_family, entries)))
        elif self.json:
            print(as_json([families.entry(family) for family in families.FAMILIES]))
        else:
            print(families.format_families(families.overview()))


@dataclass(frozen=True)
class MeshAxes:
    """Devices on each axis of the mesh (default: the recipe's)."""

    data: Devices = None
    fsdp: Devices = None
    tensor: Devices = None
    context: Devices = None

    def sizes(self) -> dict[str, int]:
        """The axes that are given."""
        return {axis: size for axis, size in asdict(self).items() if size is not None}


class _Description(RecipeVerb):
    lists_settings: ClassVar[bool] = False
    target: Target
    mesh: MeshAxes = field(default_factory=MeshAxes)
    json: Json = False


class Inspect(_Description):
    """Describe a model or a recipe: parameters, their sharding, memory, FLOPs.

    Settings of a recipe are options too, such as --model.num-layers 4. The devices need not exist.

    Example: jaxencoder inspect bert_base --mesh.fsdp 8
    """

    all: bool = False
    """Print every setting, not only those that differ from the default."""
    length: Annotated[int | None, default_is("the model's own", "N")] = None
    """Tokens in a row."""

    def run(self) -> None:
        from jaxencoder.describe.format import as_json
        from jaxencoder.describe.inspect import format_inspection, inspect

        inspection = inspect(self.target, self.mesh.sizes(), self.length, self.settings)
        print(as_json(inspection) if self.json else format_inspection(inspection, self.all))


class Cost(_Description):
    """Print what rows of some lengths cost to train on and to encode: FLOPs and memory.

    Programs are compiled but not run. Settings of a recipe are options too.

    Example: jaxencoder cost modernbert_base --length 512 8192
    """

    length: Annotated[tuple[int, ...], arg(metavar="N ...")] = (512, 2048, 8192)
    """Tokens in a row."""
    batch: Annotated[int | None, default_is("one for each share", "N")] = None
    """Rows over all devices."""
    attention: tuple[Literal["own", "global", "local", "dense"], ...] = ("own", "global", "local", "dense")
    """Layers: the model's own; all global; all local; its own with dense scores."""
    window: Annotated[int | None, default_is("the model's own, or 64", "N")] = None
    """Tokens on either side in local layers."""
    backend: Annotated[str | None, default_is("the model's own")] = None
    """Attention backend, as compute.attention."""

    def run(self) -> None:
        from jaxencoder.describe.cost import cost, format_cost, pretend_devices
        from jaxencoder.describe.format import as_json

        mesh = self.mesh.sizes()
        pretend_devices(math.prod(mesh.values()))
        options = {"rows": self.batch, "window": self.window, "backend": self.backend, "overrides": self.settings}
        result = cost(self.target, self.length, mesh=mesh, attention=self.attention, **options)
        print(as_json(result) if self.json else format_cost(result))


class Plan(RecipeVerb):
    """Print what a recipe will need on a slice of TPUs: memory, time of an update, transfers, hours and cost.

    Its updates are compiled for the slice by the compiler of TPUs, which needs none. Settings of the recipe are options
    too, such as --mesh.fsdp 16.

    Example: jaxencoder plan bert_base --topology v5e:4x4 --mesh.fsdp 16
    """

    lists_settings: ClassVar[bool] = False
    recipe: Positional[Annotated[str, arg(metavar="RECIPE")]]
    """Recipe or file, as for train."""
    topology: Annotated[str, arg(metavar="SLICE")] = "v5e:16x16"
    """A slice of v4, v5e, v5p or v6e, such as v5p:4x4x4."""
    price: Annotated[float | None, default_is("none", "PRICE")] = None
    """Price of a chip for an hour, for the cost."""
    search: bool = False
    """Try meshes, recomputation and accumulation, and plan with the fastest that fits."""
    json: Json = False

    def run(self) -> None:
        from jaxencoder.describe.format import as_json
        from jaxencoder.describe.plan.plan import plan
        from jaxencoder.describe.plan.text import format_plan

        result = plan(self.recipe, self.topology, self.settings, price=self.price, search=self.search)
        print(as_json(result) if self.json else format_plan(result))
