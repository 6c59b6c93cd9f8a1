"""Numbers whose names are in a data set's metadata are read by name."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxencoder.text.config import DataConfig
from jaxencoder.text.labels import Labels
from jaxencoder.text.schema import TEXTS
from jaxencoder.text.sources import class_names
from jaxencoder.text.sources.class_names import spelled_as, with_names

NAMES = ["neg", "pos"]
LABEL = {"names": NAMES, "_type": "ClassLabel"}


def parquet(path, features, **columns):
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return str(path)


@pytest.mark.parametrize(
    ("feature", "want"),
    [
        (LABEL, {"label": ("neg", "pos")}),
        ({"num_classes": 2, "names_file": None, "id": None, **LABEL}, {"label": ("neg", "pos")}),
        ({"feature": LABEL, "length": -1, "id": None, "_type": "Sequence"}, {"label": ("neg", "pos")}),
        ({"feature": LABEL, "_type": "List"}, {"label": ("neg", "pos")}),
        ({"feature": LABEL, "_type": "LargeList"}, {"label": ("neg", "pos")}),
        ([LABEL], {"label": ("neg", "pos")}),
        ({"names": ["0", "1"], "_type": "ClassLabel"}, {}),  # without names
        ({"dtype": "int64", "_type": "Value"}, {}),
        ({"feature": LABEL}, {}),  # a struct with a field of that name
        (None, {}),
    ],
)
def test_metadata_of_hugging_face(tmp_path, feature, want):
    path = parquet(tmp_path / "a.parquet", {"label": feature, "text": {"dtype": "string", "_type": "Value"}}, label=[1])
    assert class_names(path) == class_names(f"{path}[:1]") == want


@pytest.mark.parametrize("metadata", [None, {}, {"huggingface": "x"}, {"huggingface": "[]"}, {"pandas": "{}"}])
def test_no_metadata(tmp_path, metadata):
    pq.write_table(pa.table({"label": [1]}).replace_schema_metadata(metadata), tmp_path / "a.parquet")
    assert class_names(str(tmp_path)) == {}


def test_files_that_disagree(tmp_path):
    parquet(tmp_path / "a.parquet", {"label": LABEL}, label=[1])
    parquet(tmp_path / "b.parquet", {"label": LABEL | {"names": NAMES[::-1]}}, label=[1])
    with pytest.raises(ValueError, match=r"b\.parquet names the classes of field 'label' pos, neg, but .* neg, pos"):
        class_names(str(tmp_path))


def test_labels_by_name(tmp_path):
    """The order is that of the metadata; a model's spelling and order do not change what a label means."""
    feature = {"label": LABEL | {"names": ["pos", "neg", "rare"]}}
    path = parquet(tmp_path / "a.parquet", feature, text=["good", "bad"], label=[0, 1])
    data = DataConfig(train=(path,), label_field="label", validation=(path,))
    assert TEXTS.find_labels(data).names == ("pos", "neg", "rare")
    for classes, want in [
        (None, ["pos", "neg"]),
        (("NEG", "POS"), ["POS", "NEG"]),
        (("LABEL_0", "LABEL_1", "LABEL_2"), ["LABEL_0", "LABEL_1"]),
        ((), [0, 1]),  # a model of values
    ]:
        assert [record["label"] for _, record in TEXTS.validation_records(data, classes)] == want


def test_rows_by_the_classes_of_training(tmp_path, caplog):
    """Numbers with names are held out of training data whose numbers have none, or the names of other settings."""
    path = parquet(tmp_path / "a.parquet", {"label": LABEL}, text=["good", "bad"], label=[1, 0])
    data = DataConfig(validation=(path,), label_field="label")
    for labels, want in (
        (Labels("class", ("0", "1")), [1, 0]),
        (Labels("class", ("Pos", "Neg")), [0, 1]),
        (Labels("value", ()), [1.0, 0.0]),
    ):
        assert [example.label for example in TEXTS.examples(data, path, "", labels, "validation", 0.0)] == want
    assert "neg = 0, pos = 1" in caplog.text


def test_names_as_a_model_spells_them(caplog):
    assert spelled_as(("b", "A", "x"), ("a", "b"), "data") == ("b", "a", "x")
    assert spelled_as(("b", "A"), ("a", "A", "b"), "data") == ("b", "A")
    assert spelled_as(("b", "a"), ("x", "y", "z"), "data") == ("b", "a") and not caplog.records
    assert spelled_as(("b", "a"), ("x", "y"), "data") == ("x", "y") and "b = x, a = y" in caplog.text


def test_ids_without_a_name():
    assert with_names([1, -100, "neg", None, 1.0], NAMES, "a") == ["pos", -100, "neg", None, 1.0]
    with pytest.raises(ValueError, match="a: class 2, but the metadata names 2 classes"):
        with_names(2, NAMES, "a")
