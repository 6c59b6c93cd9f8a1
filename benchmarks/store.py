"""Random reads of prepared rows: array_record against TensorStore zarr3, with a memory-mapped file as the lower bound.

    python benchmarks/store.py --rows 200000 --length 512

Each format holds the same rows of `length` uint16 token ids. Batches of random rows are read into one [B, T] array; the
table has rows per second (median of the batches, warm file cache), writing time and size on disk.
Formats: https://github.com/google/array_record and https://zarr-specs.readthedocs.io (v3, sharding codec).
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorstore as ts
from array_record.python import array_record_module


def write_array_record(path, rows, options):
    writer = array_record_module.ArrayRecordWriter(str(path), options)
    for row in rows:
        writer.write(row.tobytes())
    writer.close()
    reader = array_record_module.ArrayRecordReader(str(path), "readahead_buffer_size:0")
    return lambda indices: np.stack([np.frombuffer(r, rows.dtype) for r in reader.read(indices.tolist())])


def write_zarr(path, rows, chunk, compressed):
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if compressed:
        codecs.append({"name": "zstd", "configuration": {"level": 1}})
    shard = 16384
    sharding = {
        "name": "sharding_indexed",
        "configuration": {"chunk_shape": [chunk, rows.shape[1]], "codecs": codecs},
    }
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(path)},
        "metadata": {
            "shape": list(rows.shape),
            "data_type": str(rows.dtype),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard, rows.shape[1]]}},
            "codecs": [sharding],
        },
    }
    writer = ts.open(spec, create=True).result()
    for start in range(0, len(rows), shard):
        writer[start : min(start + shard, len(rows))].write(rows[start : start + shard]).result()
    context = ts.Context({"cache_pool": {"total_bytes_limit": 64 << 20}})
    store = ts.open({"driver": "zarr3", "kvstore": spec["kvstore"]}, context=context, recheck_cached=False).result()
    return lambda indices: store.oindex[indices].read().result()


def write_memmap(path, rows):
    path.write_bytes(rows.tobytes())
    table = np.memmap(path, rows.dtype, "r", shape=rows.shape)
    return lambda indices: table[indices]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batches", type=int, default=200)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = (rng.zipf(1.2, (arguments.rows, arguments.length)) % 30522).astype(np.uint16)
    formats = {
        "array_record, group of 1, raw": lambda p: write_array_record(p, rows, "group_size:1,uncompressed"),
        "array_record, group of 1, zstd": lambda p: write_array_record(p, rows, "group_size:1,zstd:1"),
        "zarr3, chunk of 1 row, raw": lambda p: write_zarr(p, rows, 1, False),
        "zarr3, chunk of 1 row, zstd": lambda p: write_zarr(p, rows, 1, True),
        "zarr3, chunk of 4 rows, raw": lambda p: write_zarr(p, rows, 4, False),
        "zarr3, chunk of 16 rows, zstd": lambda p: write_zarr(p, rows, 16, True),
        "np.memmap (local only)": lambda p: write_memmap(p, rows),
    }
    print("| format | rows/s, B=64 | rows/s, B=256 | write s | MiB |\n|---|---|---|---|---|")
    for name, write in formats.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows"
            start = time.perf_counter()
            read = write(path)
            write_seconds = time.perf_counter() - start
            speeds = []
            for batch in (64, 256):
                seconds = []
                for _ in range(arguments.batches):
                    indices = rng.integers(0, len(rows), batch)
                    start = time.perf_counter()
                    values = read(indices)
                    seconds.append(time.perf_counter() - start)
                    assert np.array_equal(values, rows[indices])
                speeds.append(batch / statistics.median(seconds))
            size = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file()) / 2**20
            print(f"| {name} | {speeds[0]:,.0f} | {speeds[1]:,.0f} | {write_seconds:.1f} | {size:.0f} |", flush=True)


if __name__ == "__main__":
    main()
