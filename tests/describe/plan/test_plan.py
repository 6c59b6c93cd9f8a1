"""Plans: from the real compiler for a tiny recipe, and what phases, prices and searches make of compiled updates."""

import json
import types

import pytest

from jaxencoder.cli.main import main
from jaxencoder.config_io import load
from jaxencoder.describe.plan import plan as module
from jaxencoder.describe.plan.devices import TPUS, Topology, describe_topology
from jaxencoder.describe.plan.plan import meshes, plan
from jaxencoder.describe.plan.schedule import Times, Traffic
from jaxencoder.describe.plan.text import _hours, format_plan
from jaxencoder.describe.plan.update import CompiledUpdate, DoesNotFit, _needed
from tests.describe.test_inspect import published_folder
from tests.model.examples import BERT

MODEL = "num_layers=4, hidden_size=256, mlp_size=512, num_heads=4, max_length=512, vocab_size=1000"
HOUR = 3600.0


def recipe(folder, rest: str) -> str:
    path = folder / "tiny.py"
    body = f"model=EncoderConfig({MODEL}), tokenizer=TokenizerConfig(vocab_size=1000), {rest}"
    path.write_text(f"from jaxencoder.config import *\n\ndef get_config():\n    return RunConfig({body})\n")
    return str(path)


@pytest.fixture
def two_phases(tmp_path):
    """With a warm-up of the batch in the first length: phases 0, 1 and 2."""
    phases = "Phase(steps=10, batch_size=16, row_length=128), Phase(steps=90, batch_size=64, row_length=128)"
    return recipe(tmp_path, f"data=DataConfig(row_length=256), phases=({phases}, Phase(steps=50, batch_size=32))")


@pytest.fixture
def compiled(monkeypatch):
    """Nothing is compiled: a slice of 8 chips, on which a token takes a second, or two in long rows.

    The program of a device needs a MiB for each row that it computes at once, more without recomputation.
    """
    chips = tuple(types.SimpleNamespace(platform="tpu", id=n, coords=(n, 0, 0)) for n in range(8))
    place = Topology("v5e:2x4", TPUS["v5e"]._replace(memory=8 << 20), chips)
    asked = []

    def compile_update(config, mesh):
        rows = config.training.batch_size // config.training.accumulation // (mesh.shape["data"] * mesh.shape["fsdp"])
        needed = rows * {"none": 4, "dots": 2, "full": 1}[config.compute.remat] << 20
        asked.append(config)
        if needed > place.chip.memory:
            raise DoesNotFit(needed)
        return CompiledUpdate(0, 0, needed, "", config)

    def times(update, mesh, place):
        config = update.jaxpr
        slow = {"none": 1, "dots": 1.5, "full": 2}[config.compute.remat] * (2 if config.data.row_length > 128 else 1)
        tokens = config.training.batch_size * config.data.row_length
        return Times(fusions=tokens * slow * config.training.accumulation**0.1)

    def make_mesh(config, devices):
        sizes = {"data": config.data, "fsdp": config.fsdp, "tensor": config.tensor, "context": config.context}
        if config.data == -1:
            sizes["data"] = 8 // (config.fsdp * config.tensor * config.context)
        return types.SimpleNamespace(shape=sizes, size=8)

    monkeypatch.setattr(module, "describe_topology", lambda name: place)
    monkeypatch.setattr(module, "make_mesh", make_mesh)
    monkeypatch.setattr(module, "compile_update", compile_update)
    monkeypatch.setattr(module, "state_memory", lambda *given: {})
    monkeypatch.setattr(module, "_times", times)
    return asked


def test_phases_of_a_length_share_an_update(two_phases, compiled):
    result = plan(two_phases, "v5e:2x4", ["--compute.remat", "full"], price=2.0)
    assert [update.phase for update in result.updates] == [1, 2]
    assert [config.training.steps for config in compiled] == [90, 50]
    assert [phase.compiled for phase in result.phases] == [1, 1, 2]
    short, long = result.updates
    assert short.tokens_per_second == pytest.approx(0.5) and long.tokens_per_second == pytest.approx(0.25)
    assert [phase.tokens for phase in result.phases] == [10 * 16 * 128, 90 * 64 * 128, 50 * 32 * 256]
    hours = [tokens / 0.5 / HOUR for tokens in (20480, 737280)] + [50 * 32 * 256 / 0.25 / HOUR]
    assert [phase.hours for phase in result.phases] == pytest.approx(hours)
    assert result.hours == pytest.approx(sum(hours)) and result.cost == pytest.approx(2 * 8 * sum(hours))
    assert short.mfu == pytest.approx(short.flops * 0.5 / (8 * 197e12))
    text = format_plan(result)
    assert "as phase 1" in text and f"{result.cost:,.0f} at the given price" in text


def test_what_to_change_if_it_does_not_fit(two_phases, compiled):
    result = plan(two_phases, "v5e:2x4", price=1.0)
    assert (result.phases, result.hours, result.cost) == ((), 0, None)
    short, _ = result.updates
    assert short.times is short.seconds is short.mfu is None and short.needed == 32 << 20
    notes = " ".join(result.notes)
    assert "phase 1 does not fit" in notes and "--compute.remat dots" in notes and "--phases.N.accumulation" in notes
    assert "does not fit" in format_plan(result)


def test_search(two_phases, compiled):
    """The fastest choice that fits: no recomputation, two short rows or a long one at once."""
    result = plan(two_phases, "v5e:2x4", search=True)
    (short, long) = result.updates
    assert (short.accumulation, short.remat, long.accumulation) == (4, "none", 4)
    assert result.phases and "the fastest of" in " ".join(result.notes)
    assert {config.compute.remat for config in compiled} == {"none", "dots", "full"}


def test_a_search_that_finds_nothing(tmp_path, compiled):
    odd = recipe(tmp_path, "training=TrainingConfig(batch_size=7), data=DataConfig(row_length=63)")
    with pytest.raises(ValueError, match="batches of 7 rows do not divide over the chips of v5e:2x4; change the batch"):
        plan(odd, "v5e:2x4", search=True)
    # Two meshes, three recomputations, and five accumulations, down to 9 rows at once on each chip.
    large = recipe(tmp_path, "training=TrainingConfig(batch_size=8 * 16 * 9), data=DataConfig(row_length=128)")
    with pytest.raises(ValueError, match="none of 30 meshes, recomputations and accumulations fits v5e:2x4"):
        plan(large, "v5e:2x4", search=True)


def test_updates_whose_number_depends_on_the_data(tmp_path, compiled):
    result = plan(recipe(tmp_path, "training=TrainingConfig(epochs=2, batch_size=8)"), "v5e:2x4", price=1.0)
    assert result.updates[0].tokens_per_second and (result.phases, result.hours, result.cost) == ((), 0, None)
    assert "the number of updates depends on the data" in " ".join(result.notes)


def test_a_published_model_is_no_recipe(tmp_path, compiled):
    with pytest.raises(ValueError, match="is a published model; plan a recipe that starts from it, with --init-from"):
        plan(str(published_folder(tmp_path, BERT, "mlm_head")), "v5e:2x4")


def test_meshes(two_phases):
    config = load(two_phases)
    assert [(x.data, x.fsdp, x.context) for x in meshes(config, 16)] == [(16, 1, 1), (1, 16, 1)]
    # Of 64 devices 16 take the rows of the smallest batch, and 4 the tokens of each row.
    assert [(x.data, x.fsdp, x.context) for x in meshes(config, 64)] == [(16, 1, 4), (1, 16, 4)]


@pytest.mark.parametrize(
    ("topology", "sentence"),
    [
        ("v5e", "topology is 'v5e'; give a slice such as v5e:16x16"),
        ("h100x8", "topology is 'h100x8'; give a slice"),
        ("v5e:3x3", "topology is 'v5e:3x3', which the compiler refuses: "),
    ],
)
def test_no_slice(topology, sentence):
    pytest.importorskip("libtpu", reason="needs the compiler of TPUs: pip install 'jax[tpu]'")
    with pytest.raises(ValueError, match=sentence):
        describe_topology(topology)


def test_no_compiler(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "libtpu", None)
    with pytest.raises(ValueError, match=r"pip install 'jaxencoder\[tpu\]'"):
        describe_topology("v5e:2x2")


def test_mistakes(two_phases, compiled):
    with pytest.raises(ValueError, match="price is 0; give that of a chip"):
        plan(two_phases, "v5e:2x4", price=0)
    with pytest.raises(ValueError, match="batch_size 16 in 4 part.s. is not divisible by the 8 data shards"):
        plan(two_phases, "v5e:2x4", ["--phases.0.accumulation", "4"])
    assert not compiled


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ("Used 20.5G of 15.75G hbm", 20.5 * 2**30),
        ("temporaries (34.79G) exceeds available HBM", 34.79 * 2**30),
        ("no", 0),
    ],
)
def test_memory_in_messages(message, size):
    assert _needed(message) == int(size)


def test_the_real_compiler(tmp_path, capsys):
    """Rows of a batch over data, parameters over fsdp: gradients are summed over both."""
    pytest.importorskip("libtpu", reason="needs the compiler of TPUs: pip install 'jax[tpu]'")
    path = recipe(tmp_path, "data=DataConfig(row_length=512), compute=ComputeConfig(dtype='bfloat16')")
    words = ["plan", path, "--topology", "v5e:2x2", "--mesh.data", "2", "--mesh.fsdp", "2"]
    assert main([*words, "--model.attention-dropout", "0", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (update,), (phase,) = result["updates"], result["phases"]
    times = update["times"]
    assert times["fusions"] > 0 and times["kernels"] > 0 and 0.01 < update["mfu"] < 0.9
    assert update["seconds"] == pytest.approx(sum(times[name] for name in ("fusions", "kernels", "other", "waiting")))
    axes = {tuple(x["axes"]) for x in times["traffic"].values()}
    assert axes >= {("data", "fsdp"), ("fsdp",)} and times["open_loops"] == 0
    memory = update["memory"]
    assert memory["parameters"] + memory["optimizer"] < memory["peak"] < 2**30
    assert phase["hours"] == pytest.approx(phase["tokens"] / update["tokens_per_second"] / HOUR)


@pytest.mark.parametrize(
    ("hours", "text"), [(72, "3.0 days"), (47.9, "47.9 hours"), (0.5, "30 minutes"), (0.005, "18 seconds")]
)
def test_durations(hours, text):
    assert _hours(hours) == text


def test_text_in_a_narrow_terminal(two_phases, compiled, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    traffic = {"x": Traffic("all-gather", ("data", "fsdp"), 3, 2 << 20, 0.25)}
    monkeypatch.setattr(module, "_times", lambda *given: Times(fusions=1.0, waiting=0.125, traffic=traffic))
    text = format_plan(plan(two_phases, "v5e:2x4", ["--compute.remat", "full"]))
    assert max(map(len, text.split("Note:")[0].splitlines())) <= 80
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "all-gather data, fsdp 3 2.0 MiB 250.0" in lines and "phase 1 1000.0 0.0 0.0 125.0" in lines
    assert any(line.startswith("1 64 128 1 full 1125.0 7.3K ") for line in lines)
