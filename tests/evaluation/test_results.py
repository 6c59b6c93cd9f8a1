"""Files of results: whose they are, and whole or not there."""

import json
from pathlib import Path

import pytest

from jaxencoder.api import load
from jaxencoder.evaluation.results import read_results, results_file, write_results


def test_whose_they_are(masked, tmp_path: Path) -> None:
    run, output = load(masked.folder), tmp_path / "all.json"
    assert results_file(masked.folder, run, None) == ({}, masked.folder / "results.json")
    header, file = results_file(masked.folder, run, output)
    assert (header, file) == ({"model": str(masked.folder)}, output)
    write_results(file, header | {"validation": {"loss": 1.0}})
    assert results_file(masked.folder, run, str(output)) == (header, output)
    with pytest.raises(ValueError, match=r"all\.json holds results of .*masked; give another --output"):
        results_file("organisation/name", run, output)
    with pytest.raises(FileNotFoundError, match=r"no folder .*gone to write a\.json to"):
        results_file(masked.folder, run, tmp_path / "gone" / "a.json")
    run.save(tmp_path / "transformers")
    assert results_file(tmp_path / "transformers", load(tmp_path / "transformers"), None) == ({}, None)


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    assert read_results(file) == {}
    write_results(file, {"a": 1})
    with pytest.raises(TypeError):
        write_results(file, {"a": object()})
    assert read_results(file) == json.loads(file.read_text()) == {"a": 1} and list(tmp_path.iterdir()) == [file]
    for content, message in (("{", "is not JSON"), ("[]", "holds no results but a list")):
        file.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_results(file)
