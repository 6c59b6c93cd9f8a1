"""The setup of a run: resolved choices, and changes that prevent continuing it."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxencoder.checkpoints.initial import initial_params
from jaxencoder.checkpoints.orbax import restore_step
from jaxencoder.cli.main import main
from jaxencoder.config import Embeddings, RunConfig
from jaxencoder.config_io import load, save
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.sentence import SentenceConfig
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.text.config import DataConfig, TokenizerConfig
from jaxencoder.text.tokenizers.training import train_tokenizer
from jaxencoder.training import agreement
from jaxencoder.training import setup as module
from jaxencoder.training.config import OptimizerConfig, Phase, TrainingConfig
from jaxencoder.training.evaluator import unigram_loss
from jaxencoder.training.loop import train
from jaxencoder.training.setup import set_up

WORDS = ["red", "green", "blue", "big", "small", "cat", "dog", "bird", "runs", "sleeps"]


def write(path: Path, documents: int = 80, seed: int = 0) -> str:
    random = np.random.default_rng(seed)
    with path.open("w") as file:
        for i in range(documents):
            text = " ".join(random.choice(WORDS, 6))
            labels = {"label": ["no", "yes"][i % 2], "level": i % 3, "value": i / 7, "same": "one"}
            labels |= {"several": ["a", "b", "c"][: i % 4], "only": ["one"][: i % 2]}
            file.write(json.dumps({"text": text} | labels) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("setup")


@pytest.fixture(scope="module")
def config(home: Path) -> RunConfig:
    return RunConfig(
        name="tiny",
        model=EncoderConfig(num_layers=1, hidden_size=16, mlp_size=16, num_heads=2, max_length=16),
        compute=ComputeConfig(dtype="float32"),
        tokenizer=TokenizerConfig(vocab_size=60),
        data=DataConfig(
            (write(home / "text.jsonl"),), validation_fraction=0.2, row_length=16, cache=str(home / "cache"), workers=1
        ),
        training=TrainingConfig(steps=2, batch_size=4, eval_batches=1, log_every=1, tensorboard=False),
    )


@pytest.fixture(scope="module")
def pretrained(home: Path, config: RunConfig) -> Path:
    train(config, home / "pretrained")
    return home / "pretrained"


def fine_tuning(config: RunConfig, pretrained: Path, field: str = "label", **objective) -> RunConfig:
    """As in a recipe: model and tokenizer come from `init_from`."""
    return replace(
        config,
        model=EncoderConfig(dropout=0.2),
        tokenizer=TokenizerConfig(),
        objective=Classification(**objective),
        data=replace(config.data, label_field=field),
        init_from=str(pretrained),
    )


def changed(config: RunConfig, name: str, value) -> RunConfig:
    section, _, field = name.rpartition(".")
    if not section:
        return replace(config, **{field: value})
    return replace(config, **{section: replace(getattr(config, section), **{field: value})})


def test_what_is_prepared_is_what_training_takes(config: RunConfig, pretrained: Path, tmp_path: Path, capsys) -> None:
    asked = fine_tuning(config, pretrained)
    asked = replace(asked, data=replace(asked.data, row_length=24, cache=str(tmp_path / "cache")))
    save(asked, tmp_path)
    assert main(["prepare", str(tmp_path / "config.json")]) == 0
    assert "rows of 16 tokens" in capsys.readouterr().out  # the model that it starts from has no more
    set_up(asked, tmp_path / "run")
    assert capsys.readouterr().out.count("Reusing") == 2


def test_prompts_of_a_continued_run(config: RunConfig, pretrained: Path) -> None:
    """Names of prompts stand for what they stood for when the run began."""
    objective = Embeddings(query_prompt="sts", other_prompts=("a", "b: "))
    data, model = replace(config.data, pair_field="positive"), EncoderConfig(dropout=0.2)
    asked = replace(config, model=model, objective=objective, data=data, init_from=str(pretrained))
    asked = replace(asked, tokenizer=TokenizerConfig())
    begun = objective.started_from(SentenceConfig(prompts=(("sts", "find: "),)))
    saved = replace(asked, model=config.model, objective=begun)
    assert module.with_initial_model(asked, pretrained, saved)[0].objective == begun


def test_settings_that_may_change_exist(config: RunConfig) -> None:
    sections = {name: value for name, value in vars(config).items() if dataclasses.is_dataclass(value)}
    names = {*vars(config), *(f"{name}.{field}" for name, section in sections.items() for field in vars(section))}
    assert names >= agreement._MAY_CHANGE and "model.vocab_size" in names


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("optimizer.learning_rate", 0.5, "optimizer.learning_rate 0.0001, not 0.5"),
        ("training.batch_size", 8, "training.batch_size 4, not 8"),
        ("training.seed", 3, "training.seed 0, not 3"),
        ("data.row_length", 8, "data.row_length 16, not 8"),
        ("data.validation_fraction", 0.1, "data.validation_fraction 0.2, not 0.1"),
        ("model.hidden_size", 32, "model.hidden_size 16, not 32"),
        ("model.vocab_size", 500, "model.vocab_size"),
        ("tokenizer.vocab_size", 61, "tokenizer.vocab_size 60, not 61"),
        ("init_from", "elsewhere", "init_from '', not 'elsewhere'"),
    ],
)
def test_changed_settings_are_refused(name, value, shown, config: RunConfig, pretrained: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "prepare", lambda *_: pytest.fail("rows are prepared before the settings are checked"))
    default = OptimizerConfig().learning_rate
    with pytest.raises(ValueError) as error:
        set_up(changed(config, name, value), pretrained)
    assert shown.replace("0.0001", repr(default)) in str(error.value) and "--run-dir" in str(error.value)


OTHER = {
    "training.steps": 9,
    "training.log_every": 5,
    "data.workers": 2,
    "data.engine": "ray",
    "name": "x",
    "training.keep_best": False,
}


@pytest.mark.parametrize(("name", "value"), OTHER.items())
def test_other_settings_may_change(name, value, config: RunConfig, pretrained: Path, tmp_path: Path) -> None:
    before = (pretrained / "config.json").read_bytes()
    try:
        resolved = set_up(changed(config, name, value), pretrained).config
        assert load(pretrained) == resolved == changed(replace(resolved), name, value)
    finally:
        (pretrained / "config.json").write_bytes(before)


def test_without_a_checkpoint_nothing_binds(config: RunConfig, tmp_path: Path) -> None:
    set_up(config, tmp_path / "run")
    other = changed(changed(config, "optimizer.learning_rate", 0.5), "tokenizer.vocab_size", 50)
    resolved = set_up(other, tmp_path / "run")
    assert (
        load(tmp_path / "run") == resolved.config and resolved.config.model.vocab_size == resolved.tokenizer.vocab_size
    )


def test_changed_text_is_refused(config: RunConfig, tmp_path: Path) -> None:
    source = tmp_path / "text.jsonl"
    write(source)
    config = replace(config, data=replace(config.data, train=(str(source),)))
    train(config, tmp_path / "run")
    write(source, seed=0)  # touched, but the same
    assert train(config, tmp_path / "run")
    write(source, seed=1)
    with pytest.raises(ValueError, match="the training rows are not those .* delete .*data.json"):
        set_up(config, tmp_path / "run")
    (tmp_path / "run" / "data.json").unlink()
    set_up(config, tmp_path / "run")


def test_changed_labels_and_order_are_refused(config: RunConfig, pretrained: Path, tmp_path: Path) -> None:
    """All counts stay the same."""
    source, held_out, run = tmp_path / "text.jsonl", tmp_path / "held_out.jsonl", tmp_path / "run"
    write(source)
    write(held_out, 20)
    config = fine_tuning(config, pretrained)
    config = replace(config, data=replace(config.data, train=(str(source),), validation=(str(held_out),)))
    train(config, run)

    def flip(line: str) -> str:
        record = json.loads(line)
        return json.dumps(record | {"label": {"no": "yes", "yes": "no"}[record["label"]]}) + "\n"

    digests = json.loads((run / "data.json").read_text())
    for path, name in ((source, "training rows"), (held_out, "held-out rows")):
        before = path.read_text().splitlines(keepends=True)
        for lines in (list(map(flip, before)), before[::-1]):
            path.write_text("".join(lines))
            with pytest.raises(ValueError, match=f"the {name} are not those .* the data has changed"):
                set_up(config, run)
            assert json.loads((run / "data.json").read_text()) == digests
        path.write_text("".join(before))
        set_up(config, run)


def test_vocabulary_of_the_model(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model.vocab_size is 10, but the tokenizer has"):
        set_up(changed(config, "model.vocab_size", 10), tmp_path / "run")
    assert set_up(changed(config, "model.vocab_size", 128), tmp_path / "run").config.model.vocab_size == 128
    assert set_up(config, tmp_path / "other").config.model.vocab_size == 60


@pytest.mark.parametrize(
    ("field", "labels", "names"), [("label", 2, ("no", "yes")), ("level", 3, ("0", "1", "2")), ("value", 1, ())]
)
def test_labels(field: str, labels: int, names: tuple, config: RunConfig, pretrained: Path, tmp_path: Path) -> None:
    resolved = set_up(fine_tuning(config, pretrained, field), tmp_path).config.objective
    assert (resolved.labels, resolved.class_names) == (labels, names)
    with pytest.raises(ValueError, match=f"objective.labels is 7, but the training data has {labels}"):
        set_up(fine_tuning(config, pretrained, field, labels=7), tmp_path)
    with pytest.raises(ValueError, match="objective.class_names is .* leave it out, and give data.labels their order"):
        set_up(fine_tuning(config, pretrained, field, class_names=("x",) * max(labels, 2)), tmp_path)


def test_values_that_are_whole_numbers(config: RunConfig, pretrained: Path, tmp_path: Path, capsys) -> None:
    values = fine_tuning(config, pretrained, "level", labels=1)
    setup = set_up(values, tmp_path / "whole")
    assert setup.config.objective == values.objective and setup.train[0][0].meta["label_kind"] == "value"
    assert "labels are values" in capsys.readouterr().out
    assert set_up(fine_tuning(config, pretrained, "level"), tmp_path / "classes").config.objective.labels == 3
    resolved = set_up(fine_tuning(config, pretrained, "value"), tmp_path / "fractions").config
    capsys.readouterr()
    assert resolved.objective.labels == 1 and set_up(resolved, tmp_path / "fractions").config == resolved
    assert capsys.readouterr().out.count("Reusing") == 2  # the rows that the run began with
    with pytest.raises(
        ValueError, match="label '.*' is not a finite number.*set objective.labels to 0 if the labels are"
    ):
        set_up(fine_tuning(config, pretrained, labels=1), tmp_path / "text")
    with pytest.raises(ValueError, match="data.labels is a, but the task has no classes; leave it out"):
        replace(values, data=replace(values.data, labels=("a",)))


def test_classes_that_look_like_marks(config: RunConfig, pretrained: Path, tmp_path: Path) -> None:
    source = tmp_path / "signs.jsonl"
    source.write_text("".join(json.dumps({"text": "red cat", "label": [-1, 1][i % 2]}) + "\n" for i in range(8)))
    plain = fine_tuning(config, pretrained)
    data = replace(plain.data, train=(str(source),), validation_fraction=0.0)
    for names, label in (("neg", "pos"), "neg"), (("neg", "none", "pos"), "neg"):
        with pytest.raises(ValueError, match=f"class '{label}' has no example, but 4 records marked as unlabeled"):
            set_up(replace(plain, data=replace(data, labels=names)), tmp_path / "run")
    named = replace(plain, data=replace(data, labels=("-1", "1")))
    assert set_up(named, tmp_path / "run").config.objective.class_names == ("-1", "1")


def test_classes_are_counted(config: RunConfig, pretrained: Path, tmp_path: Path, caplog) -> None:
    plain = fine_tuning(config, pretrained)
    resolved = set_up(plain, tmp_path / "plain")
    assert resolved.config.objective.class_counts == ()
    weighted = replace(plain, objective=replace(plain.objective, class_weights="balanced"))
    counts = set_up(weighted, tmp_path / "weighted").config.objective.class_counts
    labels = resolved.train[0][0].read(np.arange(len(resolved.train[0][0])))["labels"]
    assert counts == ((labels == 0).sum(), (labels == 1).sum()) and sum(counts) == resolved.train[0][0].meta["pieces"]
    assert not caplog.records
    begun = replace(weighted, objective=replace(weighted.objective, class_counts=(5, 6)))
    assert weighted.objective.resumed(begun.objective).class_counts == (5, 6)  # a run goes on with its own
    source = tmp_path / "rare.jsonl"
    with source.open("w") as file:
        for i in range(60):
            file.write(json.dumps({"text": "red cat", "label": ["no", "yes"][i == 30]}) + "\n")
    data = replace(plain.data, train=(str(source),), validation_fraction=0.0, labels=("yes", "no", "never", "ever"))
    set_up(replace(plain, data=data), tmp_path / "rare")
    assert caplog.messages[0].startswith("Rare among 60 training examples: 'never' (0), 'ever' (0), 'yes' (1). ")


def test_epochs_and_examples(config: RunConfig, pretrained: Path, tmp_path: Path) -> None:
    config = fine_tuning(config, pretrained)
    counted = replace(config.training, steps=0, epochs=2.5, batch_examples=6, num_evaluations=2)
    config = replace(config, training=counted)
    run = tmp_path / "run"
    resolved = set_up(config, run)
    (store,) = resolved.train[0]
    size = round(6 * len(store) / store.meta["pieces"])
    steps = -(-5 * len(store) // (2 * size))
    expected = replace(counted, steps=steps, epochs=0.0, batch_size=size, eval_every=-(-steps // 2), num_evaluations=0)
    expected = replace(expected, best_metric="accuracy", best_mode="max")  # the objective's own
    assert size > 1 and resolved.config.training == expected == load(run).training
    (run / "checkpoints" / "1").mkdir(parents=True)  # begun: the same words and the saved settings both continue it
    for same in (config, load(run)):
        assert set_up(same, run).config == resolved.config
    longer = replace(config, training=replace(counted, epochs=5.0))
    assert set_up(longer, run).config.training.steps == -(-5 * len(store) // size)
    with pytest.raises(ValueError, match="already holds a run with training.batch_examples 6, not 7"):
        set_up(replace(config, training=replace(counted, batch_examples=7)), run)


def test_one_class_is_none(config: RunConfig, pretrained: Path, tmp_path: Path) -> None:
    for field in ("same", "only"):
        with pytest.raises(ValueError, match=f"'{field}' of the training data holds no class but 'one'"):
            set_up(fine_tuning(config, pretrained, field), tmp_path)


def test_several_classes(config: RunConfig, pretrained: Path, tmp_path: Path) -> None:
    given = fine_tuning(config, pretrained, "several", class_weights="balanced")
    setup = set_up(given, tmp_path / "run")
    resolved = setup.config.objective
    assert (resolved.labels, resolved.class_names, resolved.multi_label) == (3, ("a", "b", "c"), True)
    assert resolved.class_counts == tuple(sum(s.label_counts() for s in setup.train[0]).tolist())
    assert resolved.class_counts[0] > resolved.class_counts[1] > resolved.class_counts[2] > 0
    (tmp_path / "run" / "checkpoints" / "1").mkdir(parents=True)  # begun: what was found stays
    assert set_up(given, tmp_path / "run").config == setup.config
    with pytest.raises(ValueError, match="multi_label is set, but field 'label' of the training data holds no lists"):
        set_up(fine_tuning(config, pretrained, multi_label=True), tmp_path / "other")
    with pytest.raises(ValueError, match="loss is logit_adjusted, which is not for several classes"):
        set_up(fine_tuning(config, pretrained, "several", loss="logit_adjusted"), tmp_path / "other")


def test_init_from(config: RunConfig, pretrained: Path, capsys) -> None:
    resolved = set_up(fine_tuning(config, pretrained), pretrained.parent / "unused")
    assert resolved.config.model == replace(load(pretrained).model, dropout=0.2)
    assert resolved.config.tokenizer == replace(config.tokenizer, path=str(pretrained / "tokenizer"))
    given = restore_step(pretrained / "checkpoints")[1]
    params = resolved.objective.init(jax.random.key(1))
    capsys.readouterr()
    result = initial_params(str(pretrained), params, resolved.config.objective)
    assert capsys.readouterr().out == f"Starting from {pretrained}: encoder; new: classifier\n"
    assert jax.tree.all(jax.tree.map(np.array_equal, result["encoder"], given["encoder"]))
    assert result["classifier"] is params["classifier"]
    anew = initial_params(str(pretrained), params, resolved.config.objective, reinitialize=1)
    assert capsys.readouterr().out.endswith("new: classifier, and 1 layers from the top\n")
    layers, rest = (lambda tree: tree["encoder"]["layers"]), (lambda tree: tree["encoder"]["embeddings"])
    assert jax.tree.all(jax.tree.map(np.array_equal, layers(anew), layers(params)))  # this encoder has one layer
    assert jax.tree.all(jax.tree.map(np.array_equal, rest(anew), rest(given)))
    masked = set_up(replace(config, init_from=str(pretrained)), pretrained.parent / "unused2")
    result = initial_params(str(pretrained), masked.objective.init(jax.random.key(1)), config.objective)
    assert jax.tree.all(jax.tree.map(np.array_equal, result, given))
    assert capsys.readouterr().out.endswith("encoder, mlm_head; new: nothing\n")


def test_fine_tuning_takes_rows_that_the_model_reads(
    config: RunConfig, pretrained: Path, tmp_path: Path, capsys
) -> None:
    config, run = fine_tuning(config, pretrained), tmp_path / "run"
    phases, training = (Phase(steps=1, row_length=8), Phase(steps=1)), replace(config.training, steps=0)
    config = replace(config, data=replace(config.data, row_length=40), phases=phases, training=training)
    resolved = set_up(config, run)
    said = f"Rows of at most 16 tokens, not 40: {pretrained} has no more positions\n"
    assert said in capsys.readouterr().out
    assert load(run) == resolved.config and resolved.config.data.row_length == 16
    assert [part.data.row_length for part in resolved.config.phase_configs] == [8, 16]
    assert [stores[0].meta["row_length"] for stores in resolved.train] == [8, 16]
    (run / "checkpoints" / "1").mkdir(parents=True)  # begun: the same words and the saved settings both continue it
    assert set_up(config, run).config == resolved.config and said in capsys.readouterr().out
    assert set_up(load(run), run).config == resolved.config and "Rows of" not in capsys.readouterr().out
    other = replace(config, data=replace(config.data, row_length=12))
    with pytest.raises(ValueError, match="already holds a run with data.row_length 16, not 12"):
        set_up(other, run)


def test_pretraining_takes_no_shorter_rows(config: RunConfig, pretrained: Path, tmp_path: Path) -> None:
    longer = replace(config, init_from=str(pretrained), data=replace(config.data, row_length=40))
    advice = "only 16 positions; shorten --data.row-length to 16, or make the model longer with jaxencoder extend"
    for refused in (longer, load("extend_length", ["--init-from", str(pretrained)])):
        with pytest.raises(ValueError, match=advice):
            set_up(refused, tmp_path / "run")


@pytest.mark.parametrize("field", ["label", "value"])
def test_fine_tuning(field: str, config: RunConfig, pretrained: Path, tmp_path: Path, capsys) -> None:
    config = fine_tuning(config, pretrained, field)
    first = train(config, tmp_path / "run")
    assert set(first) == ({"loss", "accuracy"} if field == "label" else {"loss"})
    assert "new: classifier" in capsys.readouterr().out
    if field == "label":
        longer = replace(config, training=replace(config.training, steps=3))
        train(longer, tmp_path / "run")  # the saved settings say where the tokenizer was
        assert "Starting from" not in capsys.readouterr().out
        # A classifier of two classes is no start for one of three; its encoder is.
        three = fine_tuning(config, tmp_path / "run", "level")
        params = set_up(three, tmp_path / "three").objective.init(jax.random.key(0))
        initial_params(three.init_from, params, three.objective)
        assert "encoder; new: classifier" in capsys.readouterr().out


def test_init_from_that_is_no_run(config: RunConfig, pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such run: nowhere"):
        set_up(replace(config, init_from="nowhere"), tmp_path / "run")
    with pytest.raises(ValueError, match=f"{tmp_path} is not a run or a model: it has no config.json"):
        set_up(replace(config, init_from=str(tmp_path)), tmp_path / "run")
    other = train_tokenizer(["one two three"] * 20, TokenizerConfig(vocab_size=30))
    other.save(tmp_path / "tokenizer")
    wrong = TokenizerConfig(path=str(tmp_path / "tokenizer"))
    for folder, init_from in ((tmp_path / "run", str(pretrained)), (pretrained, "")):
        with pytest.raises(ValueError, match="is not the tokenizer of .*; leave it out"):
            set_up(replace(config, init_from=init_from, tokenizer=wrong), folder)
    assert not (tmp_path / "run").exists()


def test_folders_that_are_none(config: RunConfig, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "prepare", lambda *_: pytest.fail("rows are prepared before the folder is checked"))
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(NotADirectoryError, match="file is a file; name a folder"):
            set_up(config, folder)
    (tmp_path / "run" / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(ValueError, match="has checkpoints but no config.json"):
        set_up(config, tmp_path / "run")
    monkeypatch.setattr(module.os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="cannot be written"):
        set_up(config, tmp_path / "new")


def test_checkpoints_that_cannot_be_read(tmp_path: Path, monkeypatch) -> None:
    """Otherwise the run would look new, and its settings would be overwritten."""

    def refuse(path: Path) -> None:
        raise PermissionError(path)

    assert agreement.newest_step(tmp_path) == 0
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    (tmp_path / "config.json").touch()
    assert agreement.newest_step(tmp_path) == 5
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(PermissionError):
        agreement.newest_step(tmp_path)


@pytest.mark.parametrize("part", range(4))
def test_processes_that_disagree(part: int, monkeypatch) -> None:
    digests = ["a"] * 4
    monkeypatch.setattr(agreement.jax, "process_count", lambda: 2)

    def compare(mine, other):
        rows = []
        monkeypatch.setattr(agreement.multihost_utils, "process_allgather", lambda x: rows.append(x) or _twice(x, x))
        agreement.check_processes(other)
        monkeypatch.setattr(agreement.multihost_utils, "process_allgather", lambda x: _twice(x, rows[0]))
        agreement.check_processes(mine)

    compare(digests, digests)
    name = agreement._PARTS[part]
    with pytest.raises(ValueError, match=f"do not have the same {name}"):
        compare(digests, ["b" if i == part else "a" for i in range(4)])
    with pytest.raises(ValueError, match="process 1 of this run has failed"):
        compare(digests, None)


def _twice(mine, other):
    return tuple(np.stack(pair) for pair in zip(mine, other, strict=True))


def test_unigram_loss() -> None:
    one, two, held_out = (
        SimpleNamespace(meta={"token_counts": np.array(counts)}) for counts in ([1, 1, 0], [2, 0, 1], [3, 0, 1])
    )
    loss = unigram_loss((one, two), (held_out,))  # training counts plus one: 4, 2 and 2 of 8
    assert loss == pytest.approx(-(3 * np.log(4 / 8) + np.log(2 / 8)) / 4)
