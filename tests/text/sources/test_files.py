"""The same records from every format, compression and file system; one sentence for a file that cannot be read."""

import gzip
import itertools
import json
import lzma
import tracemalloc

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxencoder.text.sources import EmptySource, fingerprint, formats, read
from jaxencoder.text.sources.files import find_files, relative_names, source_names

RECORDS = [{"text": f"Größe {i} 你好 🙂", "label": i % 3, "tags": ["a", str(i)]} for i in range(23)]
TEXTS = [record["text"] for record in RECORDS]


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


COMPRESS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstd}


def jsonl(records=RECORDS) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def parquet(records=RECORDS) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(records), sink, row_group_size=5)
    return sink.getvalue().to_pybytes()


def lines() -> bytes:
    return "".join(text + "\n" for text in TEXTS).encode()


CONTENT = {".jsonl": jsonl, ".json": jsonl, ".txt": lines, ".parquet": parquet}


def texts(source: str, **options) -> list[str]:
    return [record["text"] for record in read(source, **options)]


# Formats


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("kind", CONTENT)
def test_every_format_gives_the_same_records(write, kind, compression) -> None:
    path = write("a" + kind + compression, COMPRESS[compression](CONTENT[kind]()))
    expected = [{"text": text} for text in TEXTS] if kind == ".txt" else RECORDS
    assert list(read(path)) == expected


@pytest.mark.parametrize("compression", [".gz", ".xz", ".zst"])
def test_compressed_parts_one_after_another_are_all_read(write, compression) -> None:
    half = len(jsonl()) // 2
    parts = COMPRESS[compression](jsonl()[:half]) + COMPRESS[compression](jsonl()[half:])
    assert list(read(write("a.jsonl" + compression, parts))) == RECORDS


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("line", ["  one", "two", "three", "four"]),
        ("paragraph", ["  one\ntwo", "three", "four"]),
        ("file", ["  one\ntwo\n\n \t\nthree\n\nfour"]),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_units(write, unit, expected, end) -> None:
    content = "\ufeff  one\ntwo\n\n \t\nthree\n\nfour\n\n".replace("\n", end)
    records = texts(write("a.txt", content), text_unit=unit)
    assert [text.replace("\r", "") for text in records] == expected


def test_the_text_field_can_have_another_name(write) -> None:
    path = write("a.jsonl", '{"sentence": "Hi.", "n": 1}')
    assert list(read(path, text_field="sentence")) == [{"sentence": "Hi.", "n": 1}]
    assert list(read(write("a.txt", "Hi."), text_field="sentence")) == [{"sentence": "Hi."}]


def test_only_the_named_fields_are_kept(write) -> None:
    records = list(read(write("a.parquet", parquet()), fields=("label",)))
    assert records == [{"text": record["text"], "label": record["label"]} for record in RECORDS]


@pytest.mark.parametrize("start", [0, 1, 4, 5, 11, len(RECORDS) - 1])
@pytest.mark.parametrize("name", ["a.parquet", "a.parquet.gz", "a.jsonl", "a.jsonl.gz", "*.jsonl"])
def test_reading_starts_at_any_record(write, tmp_path, name, start) -> None:
    write("a.parquet", parquet())
    write("a.parquet.gz", gzip.compress(parquet()))
    for half, part in (("a", RECORDS[:7]), ("b", RECORDS[7:])):
        write(f"half/{half}.jsonl", jsonl(part))
    write("a.jsonl", jsonl())
    write("a.jsonl.gz", gzip.compress(jsonl()))
    source = f"{tmp_path}/{'half/' if '*' in name else ''}{name}"
    assert list(read(source, start=start)) == RECORDS[start:]
    assert list(read(f"{source}[:9]", start=3)) == RECORDS[3:9]
    with pytest.raises(EmptySource, match=f"has no record after the first {len(RECORDS)}"):
        next(read(source, start=len(RECORDS)))


def test_a_negative_start() -> None:
    with pytest.raises(ValueError, match="start is -1; give at least 0"):
        read("pydocs", start=-1)


def test_of_parquet_only_used_columns_and_row_groups_are_read(write, monkeypatch) -> None:
    calls, iter_batches = [], pq.ParquetFile.iter_batches

    def recorded(self, size, groups, columns):
        calls.append((list(groups), columns))
        return iter_batches(self, size, groups, columns)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", recorded)
    path = write("a.parquet", parquet())
    groups = list(range(-(-len(RECORDS) // 5)))
    list(read(path))
    next(read(path, fields=("label",), start=7))
    assert calls == [(groups, None), (groups[1:], ["text", "label"])]
    # All columns are read for a message that lists them.
    with pytest.raises(ValueError, match="no field 'labels' among text, .*did you mean 'label'"):
        next(read(path, fields=("labels",)))


def test_names_of_files_in_their_source(write, tmp_path) -> None:
    paths = [write(name, "a") for name in ("d/a.txt", "d/e/a.txt")]
    assert relative_names(f"{tmp_path}/d", find_files(f"{tmp_path}/d")) == ["a.txt", "e/a.txt"]
    assert relative_names(f"{tmp_path}/*/*/*.txt", find_files(f"{tmp_path}/*/*/*.txt")) == ["d/e/a.txt"]
    assert relative_names(paths[1], paths[1:]) == ["a.txt"]


def test_parquet_text_stored_as_bytes(write) -> None:
    path = write("a.parquet", parquet([{"text": "é".encode(), "image": b"\xff\xd8"}]))
    assert list(read(path)) == [{"text": "é", "image": b"\xff\xd8"}]


# Places


def test_globs_and_folders_are_sorted_and_complete(write, tmp_path) -> None:
    for name, content in (
        ("b.txt", "b"),
        ("a.jsonl", '{"text": "a"}'),
        ("sub/c.txt.gz", gzip.compress(b"c")),
        ("z.txt", ""),
    ):
        write(f"d/{name}", content)
    for name in ("README.md", "_SUCCESS.txt", ".cache/x.txt"):
        write(f"d/{name}", "skipped")
    assert texts(f"{tmp_path}/d") == ["a", "b", "c"]
    assert texts(f"{tmp_path}/d/*.txt") == ["skipped", "b"]
    assert texts(f"{tmp_path}/d/**/*.gz") == ["c"]


def test_names_with_the_letters_of_globs_and_urls(write) -> None:
    assert texts(write("a[1]::b#2 c.txt", "x")) == ["x"]


def test_remote_file_systems() -> None:
    memory = fsspec.filesystem("memory")
    for compression, compress in COMPRESS.items():
        memory.pipe(f"/bucket/part{compression or '.0'}.jsonl{compression}", compress(jsonl()))
    memory.pipe("/bucket/deep/x.parquet", parquet())
    try:
        assert list(read("memory://bucket/part.gz.jsonl.gz")) == RECORDS
        assert list(read("memory://bucket/*.jsonl*")) == RECORDS * 4
        assert list(read("memory://bucket")) == RECORDS * 5
        before = fingerprint("memory://bucket")
        memory.pipe("/bucket/deep/x.parquet", parquet(RECORDS[:3]))
        assert fingerprint("memory://bucket") != before
        with pytest.raises(FileNotFoundError, match=r"memory://bucket/none\.txt"):
            read("memory://bucket/none.txt")
    finally:
        memory.rm("/bucket", recursive=True)


def test_errors_of_a_remote_client_are_told_in_one_sentence(monkeypatch) -> None:
    class NoCredentialsError(Exception):
        pass

    def isdir(self, path):
        raise NoCredentialsError("Unable to locate credentials\nlong story")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "isdir", isdir)
    with pytest.raises(OSError, match=r"^memory://b could not be read: Unable to locate credentials$"):
        read("memory://b")


# Memory


@pytest.mark.parametrize("unit", ["line", "paragraph", "file"])
def test_one_line_of_fifty_megabytes_is_one_document(write, unit) -> None:
    path = write("a.txt", b"word " * 10_000_000 + b"end\n")
    (text,) = texts(path, text_unit=unit)
    assert len(text) == 50_000_003 and text.endswith("word end")


def test_a_stream_needs_little_memory(write) -> None:
    path = write("a.txt.gz", gzip.compress(b"a line of text\n" * 2_000_000, 1))
    next(read(write("warm.txt.gz", gzip.compress(b"x"))))
    tracemalloc.start()
    try:
        assert sum(1 for _ in itertools.islice(read(path), 100_000)) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("unit", ["line", "paragraph", "file"])
def test_a_document_without_end_is_refused(write, monkeypatch, unit) -> None:
    monkeypatch.setattr(formats, "MAX_DOCUMENT_BYTES", 1000)
    content = "short\n\n" + "x " * 600 + "\n" + "y " * 600
    with pytest.raises(ValueError, match=r"a\.txt:\d: a document of more than"):
        texts(write("a.txt", content), text_unit=unit)


# What cannot be read


UNREADABLE = [
    ("a.txt", "", r"a\.txt is empty"),
    ("a.txt.gz", gzip.compress(b" \n\n"), r"a\.txt\.gz is empty"),
    ("a.parquet", parquet([]), r"a\.parquet is empty"),
    ("a.txt", b"fine\n\ncaf\xe9\n", r"a\.txt:3: byte 0xe9 at column 4 is not UTF-8"),
    ("a.txt", "fine".encode("utf-16"), r"a\.txt:1: byte 0xff at column 1 is not UTF-8"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}', r"a\.jsonl:2: byte 0xe9 .* is not UTF-8"),
    ("a.jsonl", '{"text": "a"}\n\n{"text": "b"', r"a\.jsonl:3: not JSON \(Expecting ',' delimiter"),
    ("a.jsonl", "[" * 100_000, r"a\.jsonl:1: not JSON"),
    ("a.jsonl", '[{"text": "a"}]', r"a\.jsonl:1: list, not a JSON object"),
    ("a.jsonl", '{"text": "\\ud83d"}', r"a\.jsonl:1: '\\ud83d' is half a character"),
    ("a.jsonl", '{"Text": "a", "id": 1}', r"a\.jsonl:1: no field 'text' among Text, id; did you mean 'Text'\?"),
    ("a.jsonl", '{"text": null}', r"a\.jsonl:1: field 'text' is NoneType, not text"),
    ("a.parquet", parquet([{"text": "a"}, {"text": None}]), r"a\.parquet row 2: field 'text' is NoneType"),
    ("a.parquet", parquet([{"text": b"\xff"}]), r"a\.parquet row 1: byte 0xff"),
    ("a.parquet", parquet()[:-20], r"a\.parquet is not a complete Parquet file"),
    ("a.parquet", "not parquet at all", r"a\.parquet is not a complete Parquet file"),
    ("a.xlsx", "text\na", r"a\.xlsx: unknown extension; write \.jsonl"),
    ("a.gz", gzip.compress(b"x"), r"a\.gz: unknown extension"),
    ("a.txt.gz", "no gzip", r"a\.txt\.gz is damaged or truncated"),
    ("a.txt.xz", "no xz", r"a\.txt\.xz is damaged or truncated"),
    ("a.txt.zst", "no zstandard", r"a\.txt\.zst is damaged or truncated"),
]


# Numbered, because gzip's header holds the time and every worker of pytest-xdist must see the same names.
@pytest.mark.parametrize(("name", "content", "message"), UNREADABLE, ids=range(len(UNREADABLE)))
def test_one_clear_sentence(write, name, content, message) -> None:
    path = write(name, content)
    with pytest.raises(ValueError, match=message) as error:
        list(read(path))
    assert "\n" not in str(error.value) and path in str(error.value)


@pytest.mark.parametrize("kind", [".txt", ".parquet"])
@pytest.mark.parametrize("compression", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("share", [0.3, 0.999])
def test_a_truncated_file_is_never_taken_for_whole(write, kind, compression, share) -> None:
    complete = COMPRESS[compression](CONTENT[kind]() * (2000 if kind == ".txt" else 1))
    path = write(f"a{kind}{compression}", complete[: int(len(complete) * share)])
    with pytest.raises(ValueError, match="is damaged or truncated"):
        list(read(path))


def test_invalid_utf8_in_a_string_column(write) -> None:
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xe9a")])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": broken}), sink)
    with pytest.raises(ValueError, match=r"a\.parquet: text after row 0 is not UTF-8"):
        list(read(write("a.parquet", sink.getvalue().to_pybytes())))


@pytest.mark.parametrize("unit", ["line", "paragraph", "file"])
def test_the_line_of_a_bad_byte_is_right_in_every_unit(write, unit) -> None:
    path = write("a.txt", b"one\n\ntwo\nth\xffree\n")
    with pytest.raises(ValueError, match=r"a\.txt:4: byte 0xff at column 3"):
        list(read(path, text_unit=unit))


def test_a_missing_field_other_than_the_text(write) -> None:
    path = write("a.jsonl", '{"text": "a", "labels": 1}')
    with pytest.raises(ValueError, match=r"no field 'label' among text, labels; did you mean 'labels'\?") as error:
        list(read(path, fields=("label",)))
    assert error.value.settings == ("pair_field", "label_field")
    with pytest.raises(ValueError, match="no field 'body' among text, labels") as error:
        list(read(path, text_field="body", fields=("label",)))
    assert error.value.settings == ("text_field",)


@pytest.mark.parametrize("source", ["nothing/here.txt", "pydoc", "nothing/*.txt", "~/nothing_here.txt"])
def test_a_missing_source_is_an_error_of_the_call_itself(source, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=source.replace("*", r"\*")):
        read(source)
    with pytest.raises(FileNotFoundError):
        fingerprint(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "a source is empty"),
        ("nosuch://bucket/a.txt", "nosuch://bucket/a.txt: Protocol not known"),
        ("tfds:", "write tfds:NAME/CONFIG:SPLIT"),
        ("tfds:imdb_reviews/plain_text", "write tfds:NAME/CONFIG:SPLIT"),
    ],
)
def test_sources_that_are_not_understood(source, message) -> None:
    with pytest.raises(ValueError, match=message):
        read(source)


def test_a_folder_without_documents_and_an_unknown_unit(write, tmp_path) -> None:
    path = write("README.md", "x")
    with pytest.raises(ValueError, match=r"holds no file of \.jsonl"):
        read(str(tmp_path))
    with pytest.raises(ValueError, match="text_unit 'sentence' is not one of line, paragraph, file"):
        read(path, text_unit="sentence")


def test_real_files(shared_data) -> None:
    for name in ("novels", "reviews", "textbooks"):
        records = list(itertools.islice(read(f"{shared_data}/text/{name}.jsonl.xz"), 20))
        assert len(records) == 20 and all(record["text"] for record in records)
    assert len(texts(f"{shared_data}/text/wikitext2/*.txt")) > 1000


def test_equal_names_are_numbered() -> None:
    sources = ["nli/train.jsonl", "qqp/train.jsonl.gz", "aligned:a.de.txt|a.en.txt", "pydocs"]
    assert source_names(sources) == ["train_0", "train_1", "a-a", "pydocs"]
