"""Recipes, JSON and overrides give the same checked value; every mistake is one sentence with a suggestion."""

import dataclasses
import io
import json
import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxencoder import __version__, config_io
from jaxencoder.config import RunConfig
from jaxencoder.config_io import from_json, load, recipes, save, to_json
from jaxencoder.model.config import EncoderConfig
from jaxencoder.objectives.masking import Masking
from jaxencoder.objectives.mlm import MaskedLM
from jaxencoder.objectives.replaced_token import ReplacedToken
from jaxencoder.sharding import MeshConfig
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.text.config import DataConfig, TokenizerConfig
from jaxencoder.training.config import Phase, TrainingConfig

PAIRED = {"data": DataConfig(pairs="sop"), "objective": MaskedLM(pairs=True)}
LABELED = DataConfig(label_field="label", labels=("no", "yes"))

RECIPE = """
from jaxencoder.config import RunConfig
from jaxencoder.model.config import EncoderConfig
from jaxencoder.training.config import TrainingConfig

def get_config():
    return RunConfig({arguments})
"""


@pytest.fixture
def recipe(tmp_path):
    def write(arguments="training=TrainingConfig(steps=60)", name="tiny"):
        path = tmp_path / f"{name}.py"
        path.write_text(RECIPE.format(arguments=arguments))
        return path

    return write


# JSON


@pytest.mark.parametrize(
    "config",
    [
        RunConfig(),
        RunConfig(name="ünïcode", objective=MaskedLM(Masking(rate=0.1 + 0.2, whole_words=True))),
        RunConfig(data=LABELED, objective=Classification()),
        RunConfig(model=EncoderConfig(windows=(0, 64, 64), norm_epsilon=1e-300, positions="rotary")),
        RunConfig(data=DataConfig(train=('a "b" \\c', "tfds:x/y:train"), weights=(1 / 3, 2.0))),
        RunConfig(phases=(Phase(steps=3, train=("a", "b"), weights=(1.0, 2.0)), Phase(steps=4, rate=0.1 + 0.2))),
    ],
)
def test_json_round_trip_is_exact(config):
    text = to_json(config)
    assert from_json(text) == config
    assert to_json(from_json(text)) == text


@given(st.floats(0.01, 0.99), st.integers(1, 2**62), st.text(st.characters(blacklist_categories=["Cs"]), min_size=1))
def test_json_round_trip_of_any_value(rate, steps, source):
    sections = {"training": TrainingConfig(steps=steps), "data": DataConfig(train=(source,))}
    config = RunConfig(objective=MaskedLM(Masking(rate=rate)), **sections)
    assert from_json(to_json(config)) == config


def test_json_names_the_objective_and_every_section():
    tree = json.loads(to_json(RunConfig(data=LABELED, objective=Classification())))
    assert tree["objective"]["type"] == "Classification"
    assert set(tree) == {field.name for field in dataclasses.fields(RunConfig)}
    assert from_json('{"training": {"steps": 7}}') == RunConfig(training=TrainingConfig(steps=7))  # else defaults


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"training": {"stepz": 3}}', r"unknown setting 'training.stepz'; did you mean steps\?"),
        ('{"trainin": {}}', r"unknown setting 'trainin'; did you mean training\?"),
        ('{"objective": {"type": "MaskedLM", "masking": {"rat": 0.2}}}', r"masking.rat'; did you mean rate\?"),
        ('{"objective": {"type": "Masked"}}', "objective is .*type is one of MaskedLM, ReplacedToken, Class"),
        ('{"objective": {}}', "objective is .*type is one of MaskedLM"),
        ('{"training": {"steps": 3.5}}', "training.steps is 3.5; give a value of type int"),
        ('{"training": {"steps": true}}', "training.steps is True; give a value of type int"),
        ('{"training": {"steps": "3"}}', "training.steps is '3'; give a value of type int"),
        ('{"training": {"steps": -1}}', "training.steps must not be negative"),
        ('{"data": {"packing": 1}}', "data.packing is 1; give a value of type bool"),
        ('{"data": {"train": "pydocs"}}', "data.train is 'pydocs'; give a list"),
        ('{"data": {"train": [1]}}', "data.train.0 is 1; give a value of type str"),
        ('{"model": {"positions": "learnt"}}', "model.positions is 'learnt'; give one of learned, rotary"),
        ('{"model": 3}', "model is 3; give an object of settings"),
        ('{"phases": [{"steps": 1}, {"stepz": 3}]}', r"unknown setting 'phases.1.stepz'; did you mean steps\?"),
        ('{"phases": [{"steps": 1.5}]}', "phases.0.steps is 1.5; give a value of type int"),
        ('{"phases": [3]}', "phases.0 is 3; give an object of settings"),
        ('{"phases": [{}]}', "the steps of a phase must be at least 1, got 0"),
        ("[]", "is \\[\\]; give an object of settings"),
        ('{"name": "x"', "is not JSON"),
    ],
)
def test_json_mistakes_are_one_sentence(text, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        from_json(text, "run/config.json")
    assert str(caught.value).startswith("run/config.json")
    assert "\n" not in str(caught.value)


def test_save_is_whole_or_nothing(tmp_path, monkeypatch):
    save(RunConfig(name="first"), tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        save(RunConfig(name="second"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert config_io.read(tmp_path / "config.json").name == "first"


@pytest.mark.parametrize(
    ("version", "written_by"), [(None, "0.1"), ("0.1.0", "0.1.0"), ("0.1.7.dev3", "0.1.7.dev3"), (3, "3"), ("", "")]
)
def test_a_run_of_an_older_version_is_refused(tmp_path, version, written_by):
    """The version decides before any setting is read, so that no renamed setting is reported as unknown."""
    tree = {"training": {"evaluations": 3}, "optimizer": {"warmup_ratio": 0.1}}
    (tmp_path / "config.json").write_text(json.dumps(tree if version is None else {"version": version} | tree))
    for target in (tmp_path, tmp_path / "config.json"):
        sentence = f"was written by jaxencoder {written_by}, whose runs {__version__} .*convert the run.* train again"
        with pytest.raises(ValueError, match=sentence) as caught:
            load(target, ["--training.steps", "3"])
        assert "\n" not in str(caught.value)


def test_newer_versions_are_read(tmp_path):
    save(RunConfig(name="x"), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["version"] == __version__
    assert config_io.read(tmp_path / "config.json") == RunConfig(name="x")
    for version in ("0.2", "0.2.0", "0.10.1", "1.0"):
        (tmp_path / "config.json").write_text(json.dumps({"version": version, "name": "x"}))
        assert config_io.read(tmp_path / "config.json").name == "x"


# Overrides


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--training.steps", "7"], {"training": TrainingConfig(steps=7)}),
        (["--training.checkpoint_every", "3"], {"training": TrainingConfig(steps=60, checkpoint_every=3)}),
        (["--training.checkpoint-every=3"], {"training": TrainingConfig(steps=60, checkpoint_every=3)}),
        (["--training.epochs", "3"], {"training": TrainingConfig(epochs=3)}),
        (["--training.epochs=3", "--training.steps", "0"], {"training": TrainingConfig(epochs=3)}),
        (["--mesh.data", "-1", "--mesh.fsdp", "2"], {"mesh": MeshConfig(data=-1, fsdp=2)}),
        (["--objective.masking.rate", "0.3"], {"objective": MaskedLM(Masking(rate=0.3))}),
        (["--data.no-packing"], {"data": DataConfig(packing=False)}),
        (["--data.train", "a.jsonl", "b.txt"], {"data": DataConfig(train=("a.jsonl", "b.txt"))}),
        (["--name", "other", "--init-from="], {"name": "other"}),
        (["--model.positions", "rotary"], {"model": EncoderConfig(positions="rotary")}),
        # Two sections that only fit each other after both have changed.
        (
            ["--data.row-length", "1024", "--model.max-length", "1024"],
            {"data": DataConfig(row_length=1024), "model": EncoderConfig(max_length=1024)},
        ),
    ],
)
def test_overrides(recipe, words, expected):
    path = recipe()
    assert load(path, words) == dataclasses.replace(load(path), **expected)


def test_overrides_of_phases(recipe):
    path = recipe("phases=(Phase(steps=5), Phase(steps=6, row_length=16))")
    path.write_text(path.read_text().replace("import TrainingConfig", "import Phase, TrainingConfig"))
    assert load(path).training.steps == 11
    config = load(path, ["--phases.1.steps", "9", "--phases.0.train", "a", "b", "--phases.1.learning-rate", "1e-5"])
    assert config.phases == (Phase(steps=5, train=("a", "b")), Phase(steps=9, row_length=16, learning_rate=1e-5))
    assert config.training.steps == 14
    assert load(path, ["--phases.1.steps", "9", "--training.steps", "14"]) == load(path, ["--phases.1.steps", "9"])
    for words, sentence in (
        (["--training.steps", "12"], "training.steps is 12, but the steps of the phases add up to 11; set it to 0"),
        (["--phases.1.steps", "0"], "^the steps of a phase must be at least 1"),
        (["--phases.0.row-length", "1024"], "^phases.0: data.row_length is 1024, but the model has only 512"),
        (["--phases.1.stepz", "9"], r"unknown setting --phases.1.stepz; did you mean --phases.1.steps\?"),
        (["--phases.2.steps", "9"], r"unknown setting --phases.2.steps; did you mean --phases.1.steps\?"),
        (["--steps", "9"], r"unknown setting --steps; did you mean --training.steps\?"),
    ):
        with pytest.raises(ValueError, match=sentence) as caught:
            load(path, words)
        assert "\n" not in str(caught.value)


def test_overrides_keep_the_recipe_s_objective(recipe):
    path = recipe('objective=Classification(), data=DataConfig(label_field="y")')
    path.write_text("from jaxencoder.config import Classification, DataConfig\n" + path.read_text())
    assert load(path, ["--training.steps", "3"]).objective == Classification()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--training.stepz", "7"], r"unknown setting --training.stepz; did you mean --training.steps\?"),
        (["--steps", "7"], r"unknown setting --steps; did you mean --training.steps\?"),
        (["--optimizer.lr", "3"], r"--optimizer.lr; did you mean --optimizer.learning_rate\?"),
        (["--lr", "3"], r"--lr; did you mean --optimizer.learning_rate\?"),
        (["--training.learning_rate", "3"], r"; did you mean --optimizer.learning_rate\?"),
        (["--optimizer.nothing", "3"], "^unknown setting --optimizer.nothing$"),
        (["--learning-rat=3"], r"unknown setting --learning-rat=3; did you mean --optimizer.learning_rate\?"),
        (["--training.steps", "many"], "--training.steps needs INT; invalid literal for int.*'many'"),
        (["--training.steps"], "--training.steps needs INT"),
        (["--training.steps", "-1"], "^training.steps must not be negative"),
        (["--model.positions", "learnt"], "--model.positions is 'learnt'; give one of learned, rotary"),
        (["--data.packing", "False"], "unexpected argument 'False'.*--no-NAME"),
        (["--data.row-length", "4096"], "^data.row_length is 4096, but the model has only 512 positions"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_override_mistakes_are_one_sentence(recipe, monkeypatch, words, sentence, encoding):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with pytest.raises(ValueError, match=sentence) as caught:
        load(recipe(), words)
    assert "\n" not in str(caught.value) and "│" not in str(caught.value)
    assert os.environ["COLUMNS"] == "20"


def test_help_lists_settings_with_the_recipe_s_values(recipe, capsys):
    with pytest.raises(SystemExit) as caught:
        load(recipe(), ["--training.seed", "3", "--help"])
    out = capsys.readouterr().out
    assert caught.value.code == 0
    assert "--training.steps INT" in out and "(default: 60)" in out and "--model.num-layers INT" in out


# Recipes and runs


def test_load_gives_the_recipe_its_file_s_name(recipe):
    assert load(recipe(name="small_one")).name == "small_one"
    assert load(recipe("name='mine'")).name == "mine"


def test_load_repeats_a_run(recipe, tmp_path):
    config = load(recipe(), ["--training.steps", "9"])
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    save(config, folder)
    assert load(folder) == load(folder / "config.json") == config
    assert load(folder, ["--training.seed", "5"]).training == dataclasses.replace(config.training, seed=5)


def test_load_makes_lists_and_integers_what_the_settings_say(recipe):
    config = load(recipe("model=EncoderConfig(windows=[0, 64], initializer_std=1)"))
    assert config.model.windows == (0, 64)
    assert isinstance(config.model.initializer_std, float)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("training=TrainingConfig(stepz=3)", r"TrainingConfig has no setting 'stepz'; did you mean steps\?"),
        ("trainin=TrainingConfig()", r"RunConfig has no setting 'trainin'; did you mean training\?"),
        ("training=TrainingConfig(steps=1e3)", "training.steps is 1000.0; give a value of type int"),
        ("objective='mlm'", "objective is 'mlm'; give .*MaskedLM"),
        ("model=None", "model is None; give EncoderConfig"),
    ],
)
def test_recipe_mistakes_are_one_sentence(recipe, arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        load(recipe(arguments))
    assert "\n" not in str(caught.value)


def test_a_bug_in_a_recipe_stays_a_bug(recipe):
    with pytest.raises(TypeError, match="unsupported operand"):
        load(recipe("name=1 + 'a'"))


@pytest.mark.parametrize("text", ["", "def get_config():\n    return 3\n"])
def test_a_file_without_a_configuration_is_no_recipe(tmp_path, text):
    (tmp_path / "x.py").write_text(text)
    with pytest.raises(ValueError, match="x.py is not a recipe"):
        load(tmp_path / "x.py")


def test_unknown_targets(tmp_path, monkeypatch):
    monkeypatch.setattr(config_io, "recipes", lambda: {"bert_base": tmp_path / "bert_base.py"})
    with pytest.raises(ValueError, match=r"no recipe is called 'bert_bas'; did you mean bert_base\?"):
        load("bert_bas")
    with pytest.raises(ValueError, match="is not a run: it has no config.json"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "bert_base.py")


@pytest.mark.parametrize("layout", ["wheel", "checkout"])
def test_recipes_are_found_by_name(tmp_path, monkeypatch, recipe, layout):
    """A wheel has recipes in jaxencoder/recipes, a checkout in configs/."""
    package = tmp_path / "somewhere" / "jaxencoder"
    folder = package / "recipes" if layout == "wheel" else package.parent / "configs"
    folder.mkdir(parents=True)
    shutil.copy(recipe(), folder / "small.py")
    (folder / "__init__.py").touch()
    monkeypatch.setattr(config_io, "__file__", str(package / "config_io.py"))
    monkeypatch.chdir(tmp_path)
    assert list(recipes()) == ["small"]
    assert load("small").training.steps == 60


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_loads(name):
    config = load(name)
    assert config.name == name and from_json(to_json(config)) == config


# Sections that contradict each other


def phases(**settings):
    return {"phases": (Phase(steps=1), Phase(steps=1, **settings))}


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"data": DataConfig(row_length=513)}, "data.row_length is 513, but the model has only 512 positions"),
        ({"training": TrainingConfig(batch_size=8), "mesh": MeshConfig(data=3)}, "batch_size 8 .* 3 shards"),
        ({"training": TrainingConfig(batch_size=8, accumulation=4), "mesh": MeshConfig(fsdp=4)}, "in 4 part"),
        ({"mesh": MeshConfig(context=3)}, "row_length 128 is not a multiple of mesh.context 3"),
        ({"objective": Classification()}, "needs data.label_field"),
        ({"objective": MaskedLM(pairs=True)}, "objective.pairs needs sentence pairs; set data.pairs to nsp or sop"),
        ({"data": DataConfig(pairs="sop")}, "data.pairs is 'sop', but the objective .* pairs; set objective.pairs"),
        ({"data": DataConfig(pairs="nsp"), "objective": ReplacedToken()}, "data.pairs is 'nsp', but the objective"),
        (PAIRED | {"model": EncoderConfig(token_types=0)}, "objective.pairs needs model.token_types 2, not 0"),
        ({"name": "a/b"}, "name is 'a/b'; give a plain name"),
        ({"phases": [Phase(steps=1)]}, "phases is .*; give tuple"),
        ({"phases": ("long",)}, "phases.0 is 'long'; give a Phase"),
        (phases(row_length=513), "^phases.1: data.row_length is 513, but the model has only 512 positions"),
        (phases(batch_size=6) | {"mesh": MeshConfig(data=4)}, "^phases.1: training.batch_size 6 .* 4 shards"),
        (phases(accumulation=5), "^phases.1: training.batch_size 32 does not divide into 5 parts"),
        (phases(row_length=15) | {"mesh": MeshConfig(context=2)}, "^phases.1: .*15 is not a multiple of mesh"),
        (phases(train=("a", "b"), weights=(1.0,)), "^phases.1: data.weights has 1 numbers for 2 training sources"),
        (phases(rate=1.5), "^phases.1: objective.masking.rate must lie between 0 and 1"),
        (phases(rope_theta=9.0), "^phases.1: rope_theta is 9.0, but model.positions is 'learned'"),
        (phases(rate=0.3) | {"objective": Classification(), "data": LABELED}, "^phases.1: .* masks no tokens"),
        (phases() | {"training": TrainingConfig(steps=3)}, "steps is 3, but the steps of the phases add up to 2"),
    ],
)
def test_contradictions(sections, sentence):
    with pytest.raises(ValueError, match=sentence):
        RunConfig(**sections)


def test_a_phase_has_a_mixture_of_its_own():
    weighted = {"data": DataConfig(train=("a", "b"), weights=(1.0, 3.0)), "training": TrainingConfig(steps=2)}
    config = RunConfig(**weighted, **phases(train=("c", "d"), temperature=2.0))
    assert config.phase_configs[0].data == config.data
    assert config.phase_configs[1].data == DataConfig(train=("c", "d"), temperature=2.0)


@pytest.mark.parametrize(
    "sections",
    [
        {"data": DataConfig(weights=(1.0,), temperature=2.0)},  # one source is no mixture
        {"data": DataConfig(row_length=1024), "model": EncoderConfig(positions="rotary")},
        # A small corpus gives a tokenizer smaller than it asks for; the saved run then holds its real size.
        {"model": EncoderConfig(vocab_size=100), "tokenizer": TokenizerConfig(vocab_size=16384)},
        {"data": DataConfig(pair_field="b"), "model": EncoderConfig(token_types=0)},
        {"data": DataConfig(pair_field="b"), "model": EncoderConfig(token_types=1)},
        PAIRED,
        {"training": TrainingConfig(batch_size=8, accumulation=2), "mesh": MeshConfig(data=2, fsdp=2, tensor=-1)},
    ],
)
def test_combinations_that_are_right(sections):
    assert RunConfig(**sections)


@pytest.mark.parametrize(("metric", "objective", "best"), [
    ("", MaskedLM(), ("loss", "min")),
    ("perplexity", MaskedLM(), ("perplexity", "min")),
    ("", Classification(), ("accuracy", "max")),
    ("accuracy", Classification(), ("accuracy", "max")),
    ("macro_f1", Classification(), ("macro_f1", "max")),
    ("loss_nli", MaskedLM(), ("loss_nli", "min")),
])  # fmt: skip
def test_metric_of_the_best_checkpoint(metric: str, objective, best: tuple[str, str]) -> None:
    data = LABELED if isinstance(objective, Classification) else DataConfig()
    config = RunConfig(objective=objective, data=data, training=TrainingConfig(best_metric=metric))
    assert config.best == best
    opposite = {"min": "max", "max": "min"}[best[1]]
    training = dataclasses.replace(config.training, best_mode=opposite)
    assert dataclasses.replace(config, training=training).best == (best[0], opposite)
    sets = dataclasses.replace(config.training, evaluations=("similarity:sts.jsonl",))
    expected = best if metric else ("similarity/sts/spearman", "max")
    assert dataclasses.replace(config, training=sets).best == expected
