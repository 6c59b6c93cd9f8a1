"""Batches as a pure function of (seed, step), and a thread that brings them onto the mesh ahead of time.

The order of an epoch is a pseudo-random permutation that is computed, not stored: a Feistel network over the row
numbers with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002). So any batch is
found at once, whatever the size of the data, and a run has nothing to save of its data but the step. (grain's shuffle
does the same for one index at a time, in 20 microseconds each: 80 ms for a batch of 4096.)
"""

import atexit
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np

from jaxencoder.text import segment_labels
from jaxencoder.text.config import DataConfig
from jaxencoder.text.sources import mixture_weights
from jaxencoder.text.store import Store

Batch = dict[str, np.ndarray]

_ROUNDS = 8
# Draws before a mixture's pattern repeats: the resolution of its weights.
_PERIOD = 1 << 16


class Batches:
    """Batches of the rows of some stores.

    With shuffle, the stream of batches goes through all rows in a new order each epoch, without end, and an epoch may
    end within a batch. Stores mixed by weights are drawn in a fixed interleaving, and each goes through epochs of its
    own. Without shuffle, the rows come in order, and rows of padding fill the last batch.

    Args:
        stores: what to draw from.
        data: gives weights and temperature; without them all rows are drawn equally often.
        batch_size: rows of a global batch.
        seed: of the order.
        shuffle: False for evaluation.
        skip: rows of the stream that are passed over, because others have used them.

    Raises:
        ValueError: the stores do not go together, or the weights do not fit them.
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
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; give at least 1")
        for name in ("row_length", "fields", "label_kind", "labels", "tokenizer", "pad_id"):
            first, *others = (store.meta[name] for store in stores)
            if any(other != first for other in others):
                raise ValueError(
                    f"the stores differ in {name}: {first!r} and {others!r}; prepare them with equal settings"
                )
        self._stores, self._size, self._seed, self._shuffle = tuple(stores), batch_size, seed, shuffle
        self._skip = skip
        self._sizes = np.array([len(store) for store in stores])
        self._ends = np.cumsum(self._sizes)
        self._pattern = None
        if shuffle and (data.weights or data.temperature != 1) and len(stores) > 1:
            self._pattern = interleave(mixture_weights(self._sizes, data.weights, data.temperature))
        self.rows_per_epoch = int(self._ends[-1])
        self.tokens_per_epoch = sum(store.meta["tokens"] for store in stores)
        self.steps_per_epoch = -(-self.rows_per_epoch // batch_size)
        self.batch_size = batch_size

    def batch(self, step: int, rows: slice | None = None) -> Batch:
        """Batch number `step`, or some of its rows: the part that this host holds.

        Returns:
            int32 [B, T] under the names of the stores' fields; those of `segment_labels` [B, E, ...], E the most of any
            store; row_ids uint32 [B], which tells the rows of all stores apart (modulo 2**32).
        """
        numbers = np.arange(self._size, dtype=np.int64)[rows or slice(None)] + step * self._size + self._skip
        chosen, indices = self.locate(numbers)
        parts = [(np.flatnonzero(chosen == k), k) for k in np.unique(chosen)]
        first = self._stores[0].padding(len(numbers))
        first["row_ids"] = (np.r_[0, self._ends][chosen] + indices).astype(np.uint32)
        of_segments = [name for name in segment_labels.FIELDS if name in first]
        most = max(store.meta["segments"] for store in self._stores)
        for name in of_segments:
            first[name] = segment_labels.widened(first[name], most)
        for places, k in parts:
            if k < 0:
                continue
            for name, values in self._stores[k].read(indices[places]).items():
                first[name][places] = segment_labels.widened(values, most) if name in of_segments else values
        return first

    def locate(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Store and row (both int64) of the numbers of an endless stream of rows; store -1 is padding."""
        if not self._shuffle:
            store = np.searchsorted(self._ends, numbers, side="right")
            there = store < len(self._ends)
            store = np.where(there, store, -1)
            return store, np.where(there, numbers - np.r_[0, self._ends][store], 0)
        if self._pattern is None:
            epochs, positions = np.divmod(numbers, self.rows_per_epoch)
            rows = permute(positions, self.rows_per_epoch, self._seed, epochs)
            store = np.searchsorted(self._ends, rows, side="right")
            return store, rows - np.r_[0, self._ends][store]
        stores, ranks, counts = self._pattern
        periods, places = np.divmod(numbers, len(stores))
        store = stores[places]
        rows = np.empty_like(numbers)
        for k in np.unique(store):
            mine = store == k
            drawn = periods[mine] * counts[k] + ranks[places[mine]]
            epochs, positions = np.divmod(drawn, self._sizes[k])
            rows[mine] = permute(positions, int(self._sizes[k]), self._seed + 0x9E3779B9 * (int(k) + 1), epochs)
        return store, rows


def interleave(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A pattern that draws from each source as evenly as its weight allows.

    Weights [0.75, 0.25] repeat the sources 0 0 1 0.

    Args:
        weights: [sources], summing to 1; a source of positive weight is drawn at least once a period.

    Returns:
        Of each draw of a period the source and how many of that source's draws came before it; of each source the draws
        a period. All int64.
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
    """Where the rows at some positions of a shuffled epoch lie: for each epoch a permutation of 0 .. size - 1.

    Args:
        positions: int64 [n], each below size.
        size: rows of an epoch.
        seed, epochs: which permutation; epochs is int64 [n].

    Returns:
        int64 [n].
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    keys = _mix(_mix(np.uint64(seed & (2**64 - 1))) + np.asarray(epochs).astype(np.uint64))
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
    """The finaliser of splitmix64 (Steele et al., OOPSLA 2014), uint64 to uint64."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def prefetch(
    batches: Batches, steps: Iterable[int], sharding_of: Callable[[int], jax.sharding.Sharding], depth: int = 2
) -> Iterator[dict[str, jax.Array]]:
    """Global batches on the devices, made by a thread while the ones before are used.

    Each host reads only the rows that its devices hold.

    Args:
        batches: what to read.
        steps: which batches, in order.
        sharding_of: from a number of sharded dimensions to a sharding: 2 of arrays [B, T], 1 of row_ids and labels.
        depth: batches held ready, besides the one in use.

    Yields:
        Dicts like those of `Batches.batch`, of global arrays.

    Raises:
        Whatever reading raises, when that batch's turn comes.
    """
    shardings = {1: sharding_of(1), 2: sharding_of(2)}
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(item: tuple) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for step in steps:
                if not put(("batch", _on_devices(batches, step, shardings))):
                    return
            put(("end", None))
        except BaseException as error:
            put(("error", error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)

    def finish() -> None:
        stop.set()
        thread.join()

    # A daemon thread inside jax when the interpreter goes down would crash it: it is ended before.
    atexit.register(finish)
    thread.start()
    try:
        while True:
            kind, item = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise item
            yield item
    finally:
        finish()
        atexit.unregister(finish)


def _on_devices(batches: Batches, step: int, shardings: dict[int, jax.sharding.Sharding]) -> dict[str, jax.Array]:
    places = shardings[1].addressable_devices_indices_map((batches.batch_size,)).values()
    spans = [index[0].indices(batches.batch_size) for index in places]
    first, last = min(span[0] for span in spans), max(span[1] for span in spans)
    local = batches.batch(step, slice(first, last))

    def to_global(name: str, values: np.ndarray) -> jax.Array:
        shape = (batches.batch_size, *values.shape[1:])

        def part(index: tuple[slice, ...]) -> np.ndarray:
            start, end, _ = index[0].indices(batches.batch_size)
            return values[(slice(start - first, end - first), *index[1:])]

        return jax.make_array_from_callback(
            shape, shardings[1 if name in ("row_ids", *segment_labels.FIELDS) else 2], part
        )

    return {name: to_global(name, values) for name, values in local.items()}
