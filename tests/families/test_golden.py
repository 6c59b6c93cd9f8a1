"""Every family and every head against the golden fixtures, without torch: outputs, and the folder written back."""

import json
from pathlib import Path

import numpy as np
import pytest

import jaxencoder
from jaxencoder.api import Model
from jaxencoder.checkpoints.weights import open_weights, save_weights
from jaxencoder.families.tables import renamed
from jaxencoder.files import read_json, write_json
from tests.families import fixtures
from tests.families.peers import CASES, MODELS, ours

RESTATED = {"max_relative_positions", "pos_att_type", "legacy"}  # DeBERTa's settings that can be said in several ways


@pytest.mark.parametrize("family", MODELS)
def test_fixtures_are_of_the_models(family: str) -> None:
    models = fixtures.read(family)["models"]
    cases = [(family, number, kind) for number, model in enumerate(models) for kind in model["classes"]]
    stale = "peers.py has changed: run python -m tests.families.make_golden"
    assert [model["settings"] for model in models] == json.loads(json.dumps(MODELS[family])), stale
    assert cases == [case for case in CASES if case[0] == family], stale


@pytest.mark.parametrize(("family", "number", "kind"), CASES)
def test_equals_transformers_and_is_written_back(family: str, number: int, kind: str, tmp_path: Path, caplog) -> None:
    case = fixtures.golden(family, number, kind)
    tensors = fixtures.weights(case.shapes, case.prefix)
    write_json(tmp_path / "theirs" / "config.json", case.config)
    save_weights(tensors, tmp_path / "theirs")
    model = jaxencoder.load(tmp_path / "theirs", dtype="float32")
    fixtures.assert_golden(ours(model, case.batch), case, 3e-5)
    assert "not used" not in caplog.text and "left out" not in caplog.text

    model.save(tmp_path / "ours")
    written, expected = open_weights(tmp_path / "ours"), as_written(model, tensors)
    assert written.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(written[name], value, err_msg=name)
    config, encoder_config = read_json(tmp_path / "ours" / "config.json", dict), model.published.family.encoder_config
    assert {name for name, value in case.config.items() if config[name] != value} <= RESTATED
    assert encoder_config(config) == encoder_config(case.config)


def as_written(model: Model, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors as we write them: zeros in rows that the model never reads, and the standard names."""
    family, config = model.published.family, model.config.model
    names = renamed(tensors, family.prefix, family.aliases)
    expected = {standard: tensors[name] for standard, name in names.items()}
    expected |= family.buffers(config)
    for row in family.encoder(config):
        if row.skip:  # positions that no token can have
            table = expected[row.theirs]
            expected[row.theirs] = np.concatenate([np.zeros_like(table[: row.skip]), table[row.skip :]])
    table_bias = family.tied.removesuffix("weight") + "bias"
    for row in family.mlm_head(config):
        if row.ours == ("mlm_head/bias",) and table_bias in expected:  # a separate table's bias counts
            expected[row.theirs] = expected[table_bias]
    bare = not any(name.startswith(family.prefix) for name in tensors)
    return {name.removeprefix(family.prefix) if bare else name: value for name, value in expected.items()}
