"""Grids of settings: their names, their table, and a sweep of which a part diverges."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jaxencoder.config import Classification, DataConfig, RunConfig, TokenClassification
from jaxencoder.config_io import load, save
from jaxencoder.evaluation import sweep as module
from jaxencoder.evaluation.sweep import format_report, grid, run_sweep, summarize_settings
from jaxencoder.training.config import TrainingConfig

CONFIG = RunConfig(data=DataConfig(label_field="label"), objective=Classification())


def test_grid() -> None:
    actual = grid(CONFIG, ["optimizer.learning-rate=1e-4,3e-4", "--objective.pooling=mean,cls"])
    assert {name: (one.optimizer.learning_rate, one.objective.pooling) for name, one in actual.items()} == {
        "learning_rate=1e-4,pooling=mean": (1e-4, "mean"),
        "learning_rate=1e-4,pooling=cls": (1e-4, "cls"),
        "learning_rate=3e-4,pooling=mean": (3e-4, "mean"),
        "learning_rate=3e-4,pooling=cls": (3e-4, "cls"),
    }
    assert grid(CONFIG, []) == {"all": CONFIG}


def test_names() -> None:
    several = grid(CONFIG, ["optimizer.trainable='/bias$' '^classifier/'", "init_from=runs/a,runs/b"])
    assert list(several) == [
        "trainable=_bias_classifier_,init_from=runs_a",
        "trainable=_bias_classifier_,init_from=runs_b",
    ]
    assert several["trainable=_bias_classifier_,init_from=runs_a"].optimizer.trainable == ("/bias$", "^classifier/")
    qualified = grid(CONFIG, ["objective.dropout=0.1", "model.dropout=0.2"])
    assert list(qualified) == ["objective.dropout=0.1,model.dropout=0.2"]
    counted = grid(replace(CONFIG, training=TrainingConfig(steps=5)), ["training.epochs=1,2"])
    assert [(one.training.steps, one.training.epochs) for one in counted.values()] == [(0, 1), (0, 2)]


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        (["optimizer.learning_rate"], "'optimizer.learning_rate' is not NAME=VALUE,VALUE"),
        (["=1"], "is not NAME=VALUE"),
        (["optimizer.b1=0.9,,0.8"], "is not NAME=VALUE"),
        (["optimizer.b1=0.9,0.9"], "repeats a setting or a value"),
        (["optimizer.b1=0.9", "optimizer.b1=0.8"], "repeats a setting"),
        (["training.seed=1,2"], "varies the seed; give seeds as such"),
        (["optimizer.lerning_rate=1"], "unknown setting --optimizer.lerning_rate; did you mean"),
        (["optimizer.learning_rate=fast"], "fast"),
        (["optimizer.learning_rate=-1"], "optimizer.learning_rate is -1.0; give a positive number"),
        (["init_from=a/b,a_b"], "two settings have the same name init_from=a_b"),
    ],
)
def test_mistakes(vary: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid(CONFIG, vary)


def outcome(accuracy: float, loss: float = 1.0) -> dict:
    return {"results": {"validation": {"loss": loss, "accuracy": accuracy, "examples": 9}}}


GROUPS = {"low": ["low/0", "low/1"], "high": ["high/0", "high/1"], "none": ["none/0"]}
OUTCOMES = {
    "low/0": outcome(0.7, 0.4),
    "low/1": outcome(0.8, 0.5),
    "high/0": outcome(0.9, 2.0),
    "high/1": {"diverged": "not finite"},
}


def test_the_best_has_not_diverged() -> None:
    by_loss = replace(CONFIG, training=TrainingConfig(best_metric="loss"))
    summary = summarize_settings(OUTCOMES, GROUPS, CONFIG)
    assert (summary["best"], summary["by"], list(summary["settings"])) == ("low", "accuracy", ["low", "high"])
    low = summary["settings"]["low"]["accuracy"]
    assert low == {"mean": pytest.approx(0.75), "sd": pytest.approx(0.5**0.5 / 10), "runs": 2}
    all_ended = OUTCOMES | {"high/1": outcome(0.8, 3.0)}
    assert summarize_settings(all_ended, GROUPS, CONFIG)["best"] == "high"  # by the accuracy, of classes
    assert summarize_settings(all_ended, GROUPS, by_loss)["best"] == "low"
    assert summarize_settings({}, GROUPS, CONFIG) == {"best": None, "by": "accuracy", "settings": {}}
    absent = replace(CONFIG, training=TrainingConfig(best_metric="f1", best_mode="max"))
    assert summarize_settings(all_ended, GROUPS, absent)["by"] == "accuracy"


@pytest.mark.parametrize(
    ("metrics", "by", "best"),
    [
        ({"accuracy": (0.5, 0.6), "macro_f1": (0.5, 0.4)}, "accuracy", "high"),  # of tags that are no entities
        ({"f1": (0.6, 0.5), "exact": (0.3, 0.4)}, "f1", "low"),  # of answers
        ({"exact": (0.3, 0.4)}, "exact", "high"),
        ({"pearson": (0.3, 0.4), "loss": (0.3, 0.4)}, "loss", "low"),
        ({"bits": (0.3, 0.4)}, None, None),
    ],
)
def test_results_without_the_metric_of_training(metrics: dict, by: str | None, best: str | None) -> None:
    config = replace(CONFIG, training=TrainingConfig(best_metric="perplexity", best_mode="min"))
    groups = {"low": ["a"], "high": ["b"]}
    columns = ({name: values[i] for name, values in metrics.items()} for i in range(2))
    outcomes = {run: {"results": {"validation": column}} for run, column in zip("ab", columns, strict=True)}
    summary = summarize_settings(outcomes, groups, config)
    assert (summary["by"], summary["best"]) == (by, best)
    assert ("Best: " in format_report(summary, outcomes, 1)) is (by is not None)


def test_the_metric_is_that_of_the_run(tmp_path: Path, monkeypatch) -> None:
    """Of tags, accuracy where they are no entities: known once the data is read, and written with the run."""

    def run_suite(runs, folder, summarize, jobs):
        resolved = replace(runs[0].config.training, best_metric="macro_f1", best_mode="max")
        for run in runs:
            (folder / run.name).mkdir(parents=True)
            save(replace(run.config, training=resolved), folder / run.name)
        actual.append(summarize({})[0]["by"])
        metrics = ({"accuracy": 0.5, "macro_f1": 0.2}, {"accuracy": 0.4, "macro_f1": 0.3})
        outcomes = {run.name: {"results": {"validation": x}} for run, x in zip(runs, metrics, strict=True)}
        actual.append(summarize(outcomes)[0]["best"])
        return outcomes

    actual: list[str] = []
    monkeypatch.setattr(module, "run_suite", run_suite)
    data = replace(CONFIG.data, text_field="tokens")
    config = replace(CONFIG, objective=TokenClassification(), data=data)
    report = run_sweep(config, tmp_path, vary=["optimizer.learning_rate=1e-4,3e-4"])
    assert actual == ["f1", "learning_rate=3e-4"]
    assert "Best: learning_rate=3e-4, macro_f1 0.3000" in report


def test_several_classes_are_ranked_by_their_f1() -> None:
    """By the name that an evaluation has for it."""
    config = replace(CONFIG, objective=Classification(labels=3, multi_label=True))
    values = {"low": {"micro_f1": 0.2, "accuracy": 0.4}, "high": {"micro_f1": 0.9, "accuracy": 0.3}}
    ended = {f"{name}/seed_0": {"results": {"validation": x | {"loss": 1.0}}} for name, x in values.items()}
    actual = summarize_settings(ended, {name: [f"{name}/seed_0"] for name in values}, config)
    assert (actual["best"], actual["by"]) == ("high", "micro_f1")


def test_report() -> None:
    lines = format_report(summarize_settings(OUTCOMES, GROUPS, CONFIG), OUTCOMES, 2).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")] == ["", "setting", "runs", "loss", "accuracy", ""]
    assert [cell.strip() for cell in lines[2].split("|")] == ["", "low", "2", "0.4500 ± 0.0707", "0.7500 ± 0.0707", ""]
    best = "Best: low, accuracy 0.7500 ± 0.0707 (mean over 2 seeds, of 2 settings)"
    assert lines[-3:] == [best, "", "high/1 has diverged: not finite"]
    assert format_report(summarize_settings({}, GROUPS, CONFIG), {}, 2) == "No run has ended yet."
    alone = {name: outcome for name, outcome in OUTCOMES.items() if name == GROUPS["low"][0]}
    assert format_report(summarize_settings(alone, GROUPS, CONFIG), alone, 1).endswith("(one seed)")


def test_a_sweep_of_which_a_part_diverges(classifier, tmp_path: Path) -> None:
    config = load(classifier.folder)
    config = replace(config, training=replace(config.training, steps=4))
    report = run_sweep(config, tmp_path, seeds=(3,), vary=["optimizer.learning_rate=1e-2,1e30"])
    for words in ("Best: learning_rate=1e-2, accuracy", "learning_rate=1e30/seed_3 has diverged: The loss"):
        assert words in report
    assert load(tmp_path / "learning_rate=1e-2" / "seed_3").training.seed == 3
    actual = json.loads((tmp_path / "results.json").read_text())
    result = json.loads((tmp_path / "learning_rate=1e-2" / "seed_3" / "results.json").read_text())["validation"]
    mean = actual["settings"]["learning_rate=1e-2"]["accuracy"]
    assert mean == {"mean": result["accuracy"], "sd": None, "runs": 1} and result["checkpoint"] == "best"
