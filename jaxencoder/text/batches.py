"""Batches as a pure function of (seed, step), and a thread that brings them onto the mesh ahead of time.

An epoch's order is a pseudo-random permutation that is computed, not stored: a Feistel network over the row numbers
with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002). So any batch is found at
once, whatever the size of the data, and the step is all the state that a run needs to save. (grain's shuffle does the
same for one index at a time: 80 ms for a batch of 4096.)
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jaxencoder.text import segment_labels
from jaxencoder.text.config import DataConfig
from jaxencoder.text.store import Store

Batch = dict[str, np.ndarray]
SOURCES = "sources"  # of a batch: the number of the source of each row
_ROUNDS = 8
_PERIOD = 1 << 16  # draws before a mixture's pattern repeats: the resolution of its weights


class Batches:
    """Batches of the rows of one or more stores, prepared with equal settings.

    With shuffle, the endless stream of rows passes through all rows in a new order each epoch, and a batch may span two
    epochs. Stores mixed by weights are interleaved in a fixed pattern, and each has epochs of its own length; with
    data.batch_sources "one", complete batches of each. Without shuffle, for evaluation, the rows come in order, and
    rows of padding fill the last batch.

    Args:
        data: gives weights and temperature; without them all rows are drawn equally often.
        batch_size: rows of a global batch.
        skip: rows at the start of the stream that earlier batches have used.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        data: DataConfig,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        skip: int = 0,
    ):
        if not stores or not all(len(store) for store in stores):
            raise ValueError(f"there are {len(stores)} stores, or an empty one among them; prepare at least one row")
        names = ("row_length", "fields", "label_kind", "labels", "tokenizer", "pad_id")
        for name in names if data.batch_sources == "mixed" else set(names) - {"labels"}:
            first, *rest = (store.meta[name] for store in stores)
            if any(value != first for value in rest):
                problem = f"the stores differ in {name}: {first!r} and {rest!r}"
                raise ValueError(f"{problem}; prepare them with equal settings")
        self._stores, self._seed, self._shuffle = tuple(stores), seed, shuffle
        self._sizes = np.array([len(store) for store in stores])
        self._starts = np.r_[0, np.cumsum(self._sizes)]  # the last one numbers rows of padding
        self._pattern, self._has_one_source = None, data.batch_sources == "one"
        self._draw_rows = batch_size if self._has_one_source else 1  # rows of one source that are drawn together
        is_weighted = bool(data.weights) or data.temperature != 1
        if shuffle and (is_weighted or self._has_one_source) and len(stores) > 1:
            self._pattern = interleave(mixture_weights(self._sizes, data.weights, data.temperature))
        self.rows_per_epoch = int(self._sizes.sum())
        self.tokens_per_epoch = sum(store.meta["tokens"] for store in stores)
        self.steps_per_epoch = -(-self.rows_per_epoch // batch_size)
        self.batch_size = batch_size
        self._skip = -(-skip // self._draw_rows) * self._draw_rows  # batches of another size may have come before

    def batch(self, step: int, rows: slice | None = None) -> Batch:
        """Batch number `step`, or some of its rows: those that this host holds.

        Returns:
            int32 [B, T] under the names of the stores' fields; fields of `segment_labels` are [B, E, ...], with E the
            most segments (for tuples, examples) of any row of all stores; row_ids uint32 [B], the row's number among
            those of all stores (modulo 2**32). Batches of one source have sources int32 [B], that of the store, -1 for
            padding.
        """
        positions = np.arange(self.batch_size, dtype=np.int64)[rows or slice(None)] + step * self.batch_size
        stores, indices = self.locate(positions + self._skip)
        segments = max(store.meta["segments"] for store in self._stores)
        tuples = np.max([store.meta.get("tuples", (0, 0)) for store in self._stores], axis=0)
        labels = set(segment_labels.FIELDS) & set(self._stores[0].meta["fields"])

        def widen(fields: Batch) -> Batch:
            shapes = {name: tuples if name == "tuples" else (segments,) for name in labels}
            return fields | {name: segment_labels.widen(fields[name], *shape) for name, shape in shapes.items()}

        batch = widen(self._stores[0].padding(len(positions)))
        batch["row_ids"] = (self._starts[stores] + indices).astype(np.uint32)
        if self._has_one_source:
            batch[SOURCES] = np.array([*(store.number for store in self._stores), -1], np.int32)[stores]
        for k in np.unique(stores[stores >= 0]):
            for name, values in widen(self._stores[k].read(indices[stores == k])).items():
                batch[name][stores == k] = values
        return batch

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Store and row (both int64) at positions of the stream of rows; store -1 is padding."""
        if not self._shuffle:
            return self._in_order(positions)
        if self._pattern is None:
            epochs, positions = np.divmod(positions, self.rows_per_epoch)
            return self._in_order(permute(positions, self.rows_per_epoch, self._seed, epochs))
        sources, ranks, counts = self._pattern
        draws, parts = np.divmod(positions, self._draw_rows)
        periods, draws = np.divmod(draws, len(sources))
        stores = sources[draws]
        rows = np.empty_like(positions)
        for k in np.unique(stores):
            chosen = stores == k
            ordinals = (periods[chosen] * counts[k] + ranks[draws[chosen]]) * self._draw_rows + parts[chosen]
            epochs, offsets = np.divmod(ordinals, self._sizes[k])
            rows[chosen] = permute(offsets, int(self._sizes[k]), self._seed + 0x9E3779B9 * (int(k) + 1), epochs)
        return stores, rows

    def _in_order(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        stores = np.searchsorted(self._starts[1:], rows, side="right")
        inside = stores < len(self._stores)
        return np.where(inside, stores, -1), np.where(inside, rows - self._starts[stores], 0)


def mixture_weights(sizes: np.ndarray, weights: Sequence[float] = (), temperature: float = 1.0) -> np.ndarray:
    """The probabilities with which a mixture draws from its sources, float64 [sources] summing to 1.

    Args:
        sizes: rows of each source, at least 1.
        weights: one per source, as `DataConfig` checks them; empty takes size ** (1 / temperature).
        temperature: 1 draws in proportion to size, larger is flatter (XLM-R, arXiv:1911.02116: alpha = 1/temperature).
    """
    if not weights:
        scaled = (sizes / sizes.max()) ** (1 / temperature)  # divided by the largest first so that no power overflows
        return scaled / scaled.sum()
    if temperature != 1:
        problem = f"data.temperature {temperature} does not apply to data.weights {weights}"
        raise ValueError(f"{problem}; set only one of them")
    return np.array(weights, np.float64) / np.sum(weights)


def interleave(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A periodic pattern that draws from each source of positive weight as evenly as the weight allows.

    Weights [0.75, 0.25], which sum to 1, repeat the sources 0 0 1 0. Each is drawn at least once in a period.

    Returns:
        (sources, ranks, counts), all int64: the source of each draw of a period, how many draws of that source precede
        it, and each source's draws per period.
    """
    exact = weights * _PERIOD
    counts = np.where(weights > 0, np.maximum(np.floor(exact), 1), 0).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: max(_PERIOD - counts.sum(), 0)]] += 1
    counts //= np.gcd.reduce(counts)
    sources = np.repeat(np.arange(len(counts)), counts)
    ranks = np.concatenate([np.arange(count) for count in counts])
    order = np.argsort((ranks + 0.5) / counts[sources], kind="stable")
    return sources[order], ranks[order], counts


def permute(positions: np.ndarray, size: int, seed: int, epochs: np.ndarray) -> np.ndarray:
    """The rows, int64 [n], at positions (int64 [n]) of shuffled epochs: a permutation of 0 .. size - 1 for each epoch.

    The seed and `epochs`, int64 [n], choose the permutation.
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    keys = _mix(_mix(np.asarray(seed & (2**64 - 1), np.uint64)) + np.asarray(epochs).astype(np.uint64))
    out = np.asarray(positions).astype(np.uint64)
    walking = np.arange(len(out))
    while len(walking):
        left, right = out[walking] >> np.uint64(half), out[walking] & mask
        for number in range(_ROUNDS):
            noise = _mix(keys[walking] + right + (np.uint64(number + 1) << np.uint64(40)))
            left, right = right, left ^ (noise & mask)
        out[walking] = (left << np.uint64(half)) | right
        # The network permutes the next power of 4: numbers beyond the rows go through it again.
        walking = walking[out[walking] >= size]
    return out.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele et al., OOPSLA 2014), uint64 to uint64."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def prefetch(
    batches: Batches, steps: Iterable[int], sharding_of: Callable[[int], jax.sharding.Sharding], depth: int = 2
) -> Generator[dict[str, jax.Array], None, None]:
    """Global batches, as of `Batches.batch`, on the devices, made by a thread while earlier ones are in use.

    Each host reads only the rows of its devices. An error of reading a batch is raised at that batch's turn.

    Args:
        steps: numbers of the batches, in order.
        sharding_of: from a number of sharded dimensions to a sharding: 2 for arrays [B, T], 1 for row_ids and labels.
        depth: batches held ready, besides the one in use and the one being made.
    """
    shardings = {1: sharding_of(1), 2: sharding_of(2)}
    pool = ThreadPoolExecutor(1, "prefetch")
    waiting: deque[Future] = deque()
    try:
        for step in steps:
            waiting.append(pool.submit(_on_devices, batches, step, shardings))
            if len(waiting) > depth + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _on_devices(batches: Batches, step: int, shardings: dict[int, jax.sharding.Sharding]) -> dict[str, jax.Array]:
    def rows_of(index: Any) -> tuple[int, int]:  # Any: jax's types admit None, which no sharding gives
        return index[0].indices(batches.batch_size)[:2]

    ranges = [rows_of(x) for x in shardings[1].addressable_devices_indices_map((batches.batch_size,)).values()]
    first, last = min(start for start, _ in ranges), max(end for _, end in ranges)
    local = batches.batch(step, slice(first, last))

    def to_global(name: str, values: np.ndarray) -> jax.Array:
        shape = (batches.batch_size, *values.shape[1:])

        def part(index: Any) -> np.ndarray:
            start, end = rows_of(index)
            return values[(slice(start - first, end - first), *index[1:])]

        sharded = 1 if name in ("row_ids", SOURCES, *segment_labels.FIELDS) else 2
        return jax.make_array_from_callback(shape, shardings[sharded], part)

    return {name: to_global(name, values) for name, values in local.items()}
