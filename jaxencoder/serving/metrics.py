"""Numbers for Prometheus, under the names of text-embeddings-inference."""

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest

from jaxencoder.serving.engine import Ticket

_SECONDS = tuple(0.001 * 2**i for i in range(16))
_SIZES = tuple(2.0**i for i in range(15))
_ROUTES = ("embed", "rerank", "predict")  # that are also counted alone


class Metrics:
    """Counts and durations of requests and batches."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._counts: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        self.queue_size = Gauge("te_queue_size", "Calls with texts in no batch yet.", registry=self._registry)
        for route in ("request", *_ROUTES):
            for name in ("count", "success"):
                self._count(f"te_{route}_{name}", 0)
        for name in ("te_batch_next_size", "te_batch_next_tokens"):
            self._histograms[name] = Histogram(
                name, "Texts or tokens in a batch.", registry=self._registry, buckets=_SIZES
            )

    def success(self, method: str, ticket: Ticket, seconds: float) -> None:
        """Count a request that got its result."""
        for name in self._names(method):
            self._count(f"te_{name}_count")
            self._count(f"te_{name}_success")
            self._observe(f"te_{name}_duration", seconds)
        self._observe("te_request_tokenization_duration", ticket.preparation)
        self._observe("te_request_queue_duration", ticket.waiting)
        self._observe("te_request_inference_duration", ticket.computing)

    def failure(self, method: str, error: str) -> None:
        """Count a request that got an error of this type."""
        for name in self._names(method):
            self._count(f"te_{name}_count")
            self._count(f"te_{name}_failure", err=error)

    @staticmethod
    def _names(method: str) -> list[str]:
        return ["request", *([method] if method in _ROUTES else [])]

    def batch(self, texts: int, tokens: int) -> None:
        """Count a batch on the devices."""
        self._histograms["te_batch_next_size"].observe(texts)
        self._histograms["te_batch_next_tokens"].observe(tokens)

    def text(self) -> bytes:
        """All numbers in Prometheus' text format."""
        return generate_latest(self._registry)

    def _count(self, name: str, number: int = 1, **labels: str) -> None:
        if name not in self._counts:
            # A Counter would be called NAME_total, which dashboards do not look for.
            self._counts[name] = Gauge(name, "Number since the start.", list(labels), registry=self._registry)
        count = self._counts[name]
        (count.labels(**labels) if labels else count).inc(number)

    def _observe(self, name: str, seconds: float) -> None:
        if name not in self._histograms:
            self._histograms[name] = Histogram(name, "Seconds.", registry=self._registry, buckets=_SECONDS)
        self._histograms[name].observe(seconds)
