"""Records of pydocs, TFDS and aligned files, and what fingerprints depend on."""

import gzip
import itertools
import os
import sys
import tarfile

import pytest

from jaxencoder.text.config import DataConfig
from jaxencoder.text.sources import class_names, field_names, fingerprint, pair_fields, read


def test_pydocs() -> None:
    records = list(read("pydocs"))
    assert {"text", "name"} == set(records[0])
    assert records[:5] == list(itertools.islice(read("pydocs"), 5))
    assert len(fingerprint("pydocs")) == 64


# Fingerprints


def test_fingerprint_follows_the_content(write, tmp_path) -> None:
    path = write("d/a.txt", "one")
    first = fingerprint(path)
    assert fingerprint(path) == first
    write("d/a.txt", "three")
    assert fingerprint(path) != first
    folder = fingerprint(f"{tmp_path}/d")
    write("d/b.txt", "two")
    assert fingerprint(f"{tmp_path}/d") != folder


def test_fingerprint_of_the_content(write, tmp_path, monkeypatch) -> None:
    """A copy has the same fingerprint, whatever its path and time; files too large to digest are not read."""
    path, other = write("a.txt", "one\ntwo\n"), write("b.txt", "one\ntow\n")
    copy = write("c.txt", "one\ntwo\n")
    os.utime(copy, (1, 1))
    for form in ("{}", "{}[:1]", "aligned:{}|{}"):
        original, same, not_same = (fingerprint(form.format(p, p), content=True) for p in (path, copy, other))
        assert original == same != not_same
    assert fingerprint(f"{tmp_path}/[ac].txt", content=True) != fingerprint(path, content=True)
    monkeypatch.setattr("jaxencoder.text.sources.files._MAX_DIGESTED_BYTES", 7)
    assert fingerprint(path, content=True) == fingerprint(path) != fingerprint(copy, content=True)


def test_fingerprint_sees_a_change_that_keeps_the_size(write) -> None:
    path = write("a.txt", "one")
    os.utime(path, ns=(0, 1_000_000_000))
    first = fingerprint(path)
    write("a.txt", "two")
    assert fingerprint(path) != first


def test_the_first_records(write, tmp_path) -> None:
    paths = [write(f"{name}.txt", f"{name}1\n{name}2\n{name}3\n") for name in "ab"]
    assert [record["text"] for record in read(f"{tmp_path}/[ab].txt[:4]")] == ["a1", "a2", "a3", "b1"]
    assert [record["text"] for record in read(f"{paths[0]}[:9]")] == ["a1", "a2", "a3"]
    assert [record["pair"] for record in read(f"aligned:{paths[0]}|{paths[1]}[:1]")] == ["b1"]
    prints = {fingerprint(f"{paths[0]}{end}") for end in ("", "[:1]", "[:2]")}
    assert len(prints) == 3
    with pytest.raises(FileNotFoundError, match="absent"):
        read(f"{tmp_path}/absent.txt[:4]")


# Aligned files


def test_aligned(write) -> None:
    paths = (
        write("news.de.gz", gzip.compress(b"Ja.\r\n\nVielleicht. \n \nNein.")),
        write("news.en", "Yes.\nEh?\nMaybe.\n\nNo.\n"),
    )
    source = f"aligned:{paths[0]}|{paths[1]}"
    texts = [("Ja.", "Yes."), ("Vielleicht.", "Maybe."), ("Nein.", "No.")]
    assert [(record["body"], record["pair"]) for record in read(source, text_field="body", fields=["pair"])] == texts
    first = fingerprint(source)
    assert first != fingerprint(f"aligned:{paths[1]}|{paths[0]}")
    write("news.en", "Yes.\nEh?\nMaybe!!\n\nNo.\n")
    assert fingerprint(source) != first


def test_aligned_languages(shared_data) -> None:
    ntrex = shared_data / "parallel" / "ntrex"
    assert len(list(read(f"aligned:{ntrex}/eng.txt|{ntrex}/tha.txt"))) == 1997


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("a\nb\n", "a\n", "b.txt ends after line 1, but .*a.txt goes on; aligned files have the same text in each"),
        ("a\n", "a\n\nb", "a.txt ends after line 1, but .*b.txt goes on"),
        ("a\nb", b"a\nb \xff", "b.txt:2: byte 0xff at column 3 is not UTF-8"),
        ("", "", "a.txt.*b.txt is empty"),
    ],
)
def test_aligned_files_that_are_not(write, first, second, message) -> None:
    source = f"aligned:{write('a.txt', first)}|{write('b.txt', second)}"
    with pytest.raises(ValueError, match=message):
        list(read(source))


def test_aligned_sources_that_are_not(write, tmp_path) -> None:
    path = write("a.txt", "a")
    for paths in (path, f"{path}|", f"{path}|{path}|{path}"):
        with pytest.raises(ValueError, match="write aligned:FILE|FILE, two text files with the same number of lines"):
            read(f"aligned:{paths}")
    with pytest.raises(FileNotFoundError, match="no such file: .*b.txt"):
        read(f"aligned:{path}|{tmp_path}/b.txt")
    with pytest.raises(ValueError, match="is a folder; name a file"):
        read(f"aligned:{tmp_path}|{path}")
    with pytest.raises(ValueError, match="the second text has the field 'pair'; give another text_field"):
        read(f"aligned:{path}|{path}", text_field="pair")


def test_which_sources_hold_pairs(write) -> None:
    both, one = write("both.jsonl", '{"text": "a", "b": "c"}\n'), write("one.jsonl", '{"text": "a"}\n')
    aligned = f"aligned:{one}|{both}"
    assert pair_fields(DataConfig(train=(one, aligned))) == {one: "", aligned: "pair"}
    assert pair_fields(DataConfig(train=(both, aligned), pair_field="b")) == {both: "b", aligned: "b"}
    assert set(next(read(aligned, pair_field="b"))) == set(field_names(aligned, pair_field="b")) == {"text", "b"}
    assert pair_fields(DataConfig(train=(one, both), pair_field="b")) == {one: "", both: "b"}
    assert pair_fields(DataConfig(train=(one,), validation=(both,), pair_field="b")) == {one: "b", both: "b"}
    assert pair_fields(DataConfig(train=(one, both), pair_field="b", label_field="y")) == {one: "b", both: "b"}
    assert pair_fields(DataConfig(train=(one, both))) == {one: "", both: ""}


# TensorFlow Datasets


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory):
    pytest.importorskip("tensorflow_datasets")
    from tests.text.sources import tiny_dataset  # noqa: F401 - registers the builders

    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("tfds")
    patch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(folder))  # read from the environment at import
    yield folder
    patch.undo()


def test_tfds_reads_without_tensorflow(tfds_folder) -> None:
    source = "tfds:tiny_sentences/plain:train"
    records = list(read(source))
    assert sorted(record["text"] for record in records) == [f"Größe {i} 你好" for i in range(6)]
    assert all(record["note"].startswith("note") and type(record["label"]) is int for record in records)
    assert class_names(f"{source}[:2]") == {"label": ("bad", "good")}
    assert "tensorflow" not in sys.modules
    assert list(read("tfds:tiny_sentences/plain:1.0.0:train[:50%]")) == records[:3]
    assert len({fingerprint(f"tfds:tiny_sentences/plain:{s}") for s in ("train", "test", "train[:50%]")}) == 3
    assert fingerprint(source) == fingerprint(source)


def test_tfds_prepares_an_archive_without_tensorflow(tfds_folder, write, tmp_path, monkeypatch) -> None:
    from tests.text.sources import tiny_dataset

    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for name in ("one", "two"):
            tar.add(write(name, f"The text of {name}."), name)
    monkeypatch.setattr(tiny_dataset.ArchivedSentences, "archive", tmp_path / "a.tar.gz")
    texts = {record["note"]: record["text"] for record in read("tfds:archived_sentences/plain:train")}
    assert texts == {"one": "The text of one.", "two": "The text of two."}
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("tfds:tensor_flow_sentences/plain:train", ValueError, "needs tf.train: install tensorflow"),
        ("tfds:tiny_sentence/plain:train", FileNotFoundError, "no dataset .* did you mean 'tiny_sentences'"),
        ("tfds:tiny_sentences/plian:train", ValueError, "could not be prepared by TFDS: .*plian"),
        ("tfds:tiny_sentences/plain:trian", ValueError, "no split 'trian' among .*did you mean 'train'"),
        ("tfds:broken_sentences/plain:train", ValueError, "could not be prepared by TFDS: the host could not be reach"),
    ],
)
def test_tfds_errors(tfds_folder, source, kind, message) -> None:
    with pytest.raises(kind, match=message) as error:
        list(read(source))
    assert "\n" not in str(error.value)
