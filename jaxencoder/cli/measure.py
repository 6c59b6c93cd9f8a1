"""Verbs that measure models: evaluate and compare."""

from dataclasses import field, fields
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from jaxencoder.cli import verb
from jaxencoder.inference.options import EmbedOptions, Precision
from jaxencoder.model.config import Similarity
from jaxencoder.training.memory import keep_freed_memory

_Task = Literal[
    "similarity", "pair_classification", "triplets", "bitext", "classification", "clustering", "retrieval",
    "compression", "reranking", "probing"
]  # fmt: skip
# document_prompt is a prompt
EMBED_OPTIONS = {"pooling", "pool_factor", "max_active_dims", "prompt", "document_prompt", "batch_tokens"}
_Sets = Positional[Annotated[tuple[str, ...], arg(metavar="DATA ...", help_behavior_hint="(required)")]]


class Evaluate(verb.Verb):
    """Evaluate a run on its own task, or a published model with a head.

    For any model on published sets: evaluate similarity, pair-classification, triplets, bitext, classification,
    clustering, retrieval, compression, reranking, probing.

    Example: jaxencoder evaluate runs/sst2 --data test.jsonl --slice-by lang
    """

    model: verb.ModelName
    data: Annotated[str | None, verb.default_is("what the run held out", "SOURCE")] = None
    """Labeled records."""
    step: verb.Step = "latest"
    output: Annotated[Path | None, verb.default_is("the run's results.json")] = None
    """JSON file for the results."""
    report: Annotated[Path | None, verb.default_is("the run's report/NAME", "FOLDER")] = None
    """Folder for a classifier's report."""
    text_field: verb.TextField = None
    pair_field: verb.PairField = None
    label_field: verb.LabelField = None
    slice_by: Annotated[tuple[str, ...], verb.default_is("none", "FIELD ...")] = ()
    """Also show a classifier's metrics by the values of these fields."""
    tune_threshold: Annotated[str | None, verb.default_is("none", "SOURCE")] = None
    """Choose a classifier's thresholds of best F1 on this source; "validation": what the run held out."""
    long_texts: OmitArgPrefixes[verb.LongTextOptions] = field(default_factory=verb.LongTextOptions)

    def run(self) -> None:
        keep_freed_memory()
        from jaxencoder.evaluation.evaluate import evaluate
        from jaxencoder.evaluation.tables import format_metrics

        options = verb.given(self, "report", "output", "text_field", "pair_field", "label_field", "tune_threshold")
        options |= {"slice_by": self.slice_by, "windows": self.long_texts.window_config()}
        print(format_metrics(evaluate(self.model, self.data, self.step, **options)))


class _PublishedSets(verb.Verb):
    task: ClassVar[_Task]
    model: verb.ModelName
    data: _Sets
    """BEIR folders."""
    step: verb.Step = "latest"
    output: Annotated[Path | None, verb.default_is("a run's results.json")] = None
    """JSON file for the results."""
    batch_tokens: verb.BatchTokens = None

    def run(self) -> None:
        if not self.data:
            raise ValueError("name the DATA to evaluate on")
        keep_freed_memory()
        from jaxencoder.evaluation.evaluate import evaluate_task
        from jaxencoder.evaluation.tables import format_results

        common = {"model", "data", "step", "output"}
        options = verb.given(self, *(option.name for option in fields(self) if option.name not in common))
        if self.task != "probing":  # those of vectors are one EmbedOptions
            names = options.keys() & EMBED_OPTIONS
            embedding = {name.removeprefix("document_"): options.pop(name) for name in names}
            options["options"] = EmbedOptions(**embedding)
        print(format_results(evaluate_task(self.model, self.task, self.data, self.output, self.step, **options)))


class _PairSets(_PublishedSets):
    data: _Sets
    """Sources of pairs of texts; sources joined by commas form one set."""
    text_field: Annotated[str | None, verb.default_is("a usual name")] = None
    """Field of the text."""
    pair_field: Annotated[str | None, verb.default_is("a usual name")] = None
    """Field of the second text."""
    prompt: Annotated[str | None, verb.default_is("the model's own")] = None
    """Name of a stored prompt, which also chooses the adapter for its task, or its text."""
    pooling: verb.PoolingOption = None


class EvaluateSimilarity(_PairSets):
    """Evaluate vectors by their correlation with human similarity scores.

    Example: jaxencoder evaluate similarity runs/small sts/test.jsonl
    """

    task: ClassVar[_Task] = "similarity"
    label_field: Annotated[str | None, verb.default_is("a usual name")] = None
    """Field of the score."""


class EvaluatePairClassification(_PairSets):
    """Evaluate vectors by how well they tell similar pairs of texts, labeled 1, from others, labeled 0.

    Example: jaxencoder evaluate pair-classification runs/small qqp/validation.jsonl
    """

    task: ClassVar[_Task] = "pair_classification"
    label_field: Annotated[str | None, verb.default_is("a usual name")] = None
    """Field of the label."""
    similarity: Annotated[Similarity | Literal["all"] | None, verb.default_is("the model's own")] = None
    """Function of two vectors; all: a row for each."""


class EvaluateTriplets(_PairSets):
    """Evaluate vectors by how often a text is more similar to its positive than to its negative.

    Example: jaxencoder evaluate triplets runs/small nli/dev.jsonl
    """

    task: ClassVar[_Task] = "triplets"


class EvaluateBitext(_PairSets):
    """Evaluate vectors by the translations that they find.

    Example: jaxencoder evaluate bitext runs/small "aligned:news.de.txt|news.en.txt"
    """

    task: ClassVar[_Task] = "bitext"


class _LabeledSets(_PublishedSets):
    data: _Sets
    """Sources of labeled texts; sources joined by commas form one set."""
    text_field: Annotated[str | None, verb.default_is("a usual name")] = None
    """Field of the text."""
    label_field: Annotated[str | None, verb.default_is("a usual name")] = None
    """Field of the class."""
    experiments: int = 10
    """Draws of texts, over which results are averaged."""
    prompt: Annotated[str | None, verb.default_is("the model's own")] = None
    """Name of a stored prompt, which also chooses the adapter for its task, or its text."""
    pooling: verb.PoolingOption = None


class EvaluateClassification(_LabeledSets):
    """Evaluate vectors by logistic regressions on a few texts of each class, as MTEB does.

    Example: jaxencoder evaluate classification runs/small banking77/test.jsonl --train banking77/train.jsonl
    """

    task: ClassVar[_Task] = "classification"
    train: Annotated[str, arg(metavar="SOURCE")]
    """Labeled texts to draw from."""
    samples_per_label: int = 8
    """Texts of each class in a draw."""


class EvaluateClustering(_LabeledSets):
    """Evaluate vectors by the agreement of clusters with classes, as MTEB does.

    Example: jaxencoder evaluate clustering runs/small banking77/test.jsonl
    """

    task: ClassVar[_Task] = "clustering"
    samples: int = 16_384
    """Texts in a draw, with replacement."""
    documents: Annotated[int | None, verb.default_is("all", "N")] = None
    """Draw from N texts, chosen at random."""


class _Folders(_PublishedSets):
    split: Annotated[str | None, verb.default_is("test")] = None
    """Split of the relevance judgments."""
    query_prompt: verb.QueryPrompt = None
    document_prompt: verb.DocumentPrompt = None
    pooling: verb.PoolingOption = None


class EvaluateRetrieval(_Folders):
    """Evaluate vectors by the documents that they retrieve.

    Example: jaxencoder evaluate retrieval runs/small scifact
    """

    task: ClassVar[_Task] = "retrieval"
    pool_factor: verb.PoolFactor = None
    max_active_dims: verb.MaxActiveDims = None


class EvaluateCompression(_Folders):
    """Evaluate what retrieval loses with fewer dimensions, and with a byte or a bit for each.

    Example: jaxencoder evaluate compression runs/small scifact --dimensions 384 128 64
    """

    task: ClassVar[_Task] = "compression"
    dimensions: Annotated[tuple[int, ...], verb.default_is("all", "N ...")] = ()
    """Leading numbers of each vector to keep (Matryoshka)."""
    precision: tuple[Precision, ...] = ("float32", "int8", "binary")
    """Precisions of the vectors of documents."""
    rescore: int = 4
    """Candidates for each result, which the query scores anew in float32; 0: none."""


class EvaluateReranking(EvaluateRetrieval):
    """Evaluate a cross-encoder or multi-vector model on what another model retrieves.

    Prompts and pooling are those of the model that retrieves.

    Example: jaxencoder evaluate reranking runs/pairs scifact --first runs/small
    """

    task: ClassVar[_Task] = "reranking"
    first: Annotated[str, arg(metavar="MODEL")]
    """The model that retrieves."""
    k: verb.TopCount = 100
    """Documents that are reordered for each query."""


class EvaluateProbing(_PublishedSets):
    """Evaluate a masked language model by the facts that it completes.

    Example: jaxencoder evaluate probing runs/small facts.jsonl
    """

    task: ClassVar[_Task] = "probing"
    data: _Sets
    """Sources of texts with a mask, and their answers."""
    text_field: Annotated[str | None, verb.default_is("text")] = None
    """Field of the text."""
    label_field: Annotated[str | None, verb.default_is("answer")] = None
    """Field of the answer."""


class Compare(verb.Verb):
    """Test whether a fine-tuned run is better than another, or whether the difference is chance.

    Each side is a run, the runs of several seeds joined by commas, or their predictions.jsonl files.

    Example: jaxencoder compare runs/a,runs/a-seed1 runs/b,runs/b-seed1
    """

    a: Positional[Annotated[str, arg(metavar="A")]]
    """First side."""
    b: Positional[Annotated[str, arg(metavar="B")]]
    """Second side."""
    data: Annotated[str | None, verb.default_is("what the runs held out", "SOURCE")] = None
    """Labeled records to predict."""
    step: Annotated[verb.Step | None, verb.default_is("the best where it is kept")] = None
    """Checkpoint of the runs."""
    seed: int = 0
    """Seed of the resampling."""

    def run(self) -> None:
        keep_freed_memory()
        from jaxencoder.evaluation.compare import compare, describe_difference, format_comparison

        result = compare(self.a.split(","), self.b.split(","), self.data, self.seed, step=self.step)
        print(f"{result.examples} examples; A: {self.a}; B: {self.b}\n\n{format_comparison(result)}\n")
        print(describe_difference(result.differences[0], "A", "B"))
