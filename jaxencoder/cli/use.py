"""Verbs that use a model: fill-mask, score, embed, search, predict, convert, extend, keep-layers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from jaxencoder.bulk.config import BulkConfig
from jaxencoder.cli import verb
from jaxencoder.inference.options import SINGLE_FILES
from jaxencoder.model.config import Pooling
from jaxencoder.text.config import Engine
from jaxencoder.training.memory import keep_freed_memory

NewFolder = Positional[Annotated[Path, arg(metavar="FOLDER", help="New folder to write.")]]


class FillMask(verb.Verb):
    """Print the most probable tokens for each mask of a text.

    Example: jaxencoder fill-mask runs/small "The capital of France is [MASK]."
    """

    model: verb.ModelName
    text: Positional[Annotated[tuple[str, ...], arg(metavar="TEXT ...", help_behavior_hint="(required)")]]
    """Texts with a mask token."""
    top: verb.TopCount = 5
    """Tokens for each mask."""

    def run(self) -> None:
        if not self.text:
            raise ValueError("name a TEXT with a mask token")
        from jaxencoder.api import load

        model = load(self.model)
        for text in self.text:
            for fillers in model.fill_mask(text, self.top):
                for token, probability, sentence in fillers:
                    print(f"{probability:7.2%}  {token:<16} {sentence}")


class Score(verb.Verb):
    """Print the pseudo-log-likelihood of texts: each token is masked in turn.

    Example: jaxencoder score runs/small "Return a new list." "Return list new a."
    """

    model: verb.ModelName
    text: Positional[Annotated[tuple[str, ...], arg(metavar="TEXT ...", help_behavior_hint="")]] = ()
    """Texts, or name a source with --input."""
    input: Annotated[str | None, verb.default_is("none", "SOURCE")] = None
    """Texts: .jsonl, .txt, .parquet, tfds:NAME, ..."""
    text_field: verb.RecordText = "text"
    pair_field: Annotated[str | None, verb.default_is("none")] = None
    """Field of a second text; counts how often the first is more probable."""

    def run(self) -> None:
        if bool(self.text) == bool(self.input) or (self.pair_field and not self.input):
            raise ValueError("give texts, or a source of them with --input (and --pair-field for pairs)")
        keep_freed_memory()
        from jaxencoder.inference.score import score_source

        fields = (self.text_field, *([self.pair_field] if self.pair_field else [])) if self.input else ("text",)
        wins = count = 0
        for record, scores in score_source(self.model, self.input or ({"text": text} for text in self.text), fields):
            numbers = "  ".join(f"{x.log_likelihood:10.3f} nats  {x.perplexity:9.2f} per token" for x in scores)
            print(f"{numbers}  {' '.join(record[fields[0]].split())[:100]}")
            wins += scores[0].log_likelihood > scores[-1].log_likelihood
            count += 1
        if self.pair_field:
            print(f"{self.text_field} is more probable than {self.pair_field} in {wins / count:.1%} of {count} pairs")


@dataclass(frozen=True, kw_only=True)
class ShardOptions:
    """For an output that is a folder, to which shards are written:"""

    engine: Annotated[Engine | None, verb.default_is("process")] = None
    """process: this one. ray: workers on this machine, or on the cluster that RAY_ADDRESS names."""
    workers: Annotated[int | None, verb.default_is("one per GPU, TPU chip, or else CPU", "N")] = None
    """Workers of Ray."""
    id_field: Annotated[str | None, verb.default_is("id, or made of file and number")] = None
    """Field with a text or whole number of each record's own; '' makes ids."""
    columns: Annotated[tuple[str, ...] | None, verb.default_is("none", "FIELD ...")] = None
    """Other fields to keep."""
    shard_records: Annotated[int | None, verb.default_is("8192", "N")] = None
    """Most records of a shard."""

    def config(self, text_field: str, output: str) -> BulkConfig | None:
        """The settings of a folder of shards, None for a single file; ValueError for options that do not apply."""
        options = verb.given(self, "engine", "workers", "id_field", "columns", "shard_records")
        is_address, suffix = "://" in output, Path(output).suffix
        if is_address and suffix in SINGLE_FILES:
            raise ValueError(f"{output} is an address; end it with / for a folder of shards, or give a local file")
        if is_address or output.endswith("/") or not suffix or Path(output).is_dir():
            return BulkConfig(text_field, **options)
        for name, value in options.items():
            option = name.replace("_", "-")
            problem = f"--{option} is {value!r}, but {output} is the name of a single file"
            raise ValueError(f"{problem}; end it with / for a folder of shards, or leave --{option} out")
        return None


class Embed(verb.Verb):
    """Write one vector for each text of a source, or, by a multi-vector model (ColBERT), one for each token.

    A sparse model (SPLADE) writes a list of tokens and weights for each text.

    To a folder, it writes shards of Parquet with ids and vectors, and continues where it was stopped.

    Example: jaxencoder embed runs/small --input texts.jsonl --output vectors.parquet
    Example: jaxencoder embed runs/small --input "s3://bucket/*.parquet" --output s3://bucket/vectors/ --engine ray
    """

    model: verb.ModelName
    input: verb.Source
    """Texts: .jsonl, .txt, .parquet, tfds:NAME, ..."""
    output: str
    """File to write: .parquet, .jsonl or .npy; by a multi-vector model .npz in place of .npy. Or a folder of shards."""
    normalize: Annotated[bool, verb.default_is("as the model does")] = False
    """Scale each vector to length 1."""
    prompt: Annotated[str | None, verb.default_is("the model's own")] = None
    """Name of a stored prompt, which also chooses the adapter for its task, or text to put before each text. For a
    multi-vector or sparse model: query or document."""
    dimensions: Annotated[int | None, verb.default_is("all", "N")] = None
    """Keep the first N numbers of each vector (Matryoshka)."""
    text_field: verb.RecordText = "text"
    embedding: OmitArgPrefixes[verb.EmbeddingOptions] = field(default_factory=verb.EmbeddingOptions)
    shards: OmitArgPrefixes[ShardOptions] = field(default_factory=ShardOptions)

    def run(self) -> None:
        keep_freed_memory()
        more = {"normalize": self.normalize or None, "prompt": self.prompt, "dimensions": self.dimensions}
        options = self.embedding.embed_options(**more)
        if (config := self.shards.config(self.text_field, self.output)) is None:
            from jaxencoder.inference.embed import embed_file

            count = embed_file(self.model, self.input, Path(self.output), self.text_field, options)
            print(f"{count} texts in {self.output}")
            return
        from jaxencoder.bulk.embed import embed_folder

        report = embed_folder(self.model, self.input, self.output, options, config)
        kept = f", {report.texts - report.new_texts} of them from before" if report.texts > report.new_texts else ""
        print(f"{report.texts} texts{kept} in {report.shards} shards in {self.output}")


class Search(verb.Verb):
    """Print the texts of a source that are most similar to a query.

    Example: jaxencoder search runs/small pydocs "read the lines of a file"
    """

    model: verb.ModelName
    source: Positional[verb.Source]
    """Texts: pydocs, .jsonl, .txt, .parquet, tfds:NAME, ..."""
    query: Positional[Annotated[str, arg(metavar="QUERY")]]
    """A text."""
    top: verb.TopCount = 5
    """Texts to print."""
    query_prompt: verb.QueryPrompt = None
    document_prompt: verb.DocumentPrompt = None
    text_field: verb.RecordText = "text"
    embedding: OmitArgPrefixes[verb.EmbeddingOptions] = field(default_factory=verb.EmbeddingOptions)

    def run(self) -> None:
        keep_freed_memory()
        from jaxencoder.inference.search import search

        options = self.embedding.embed_options(prompt=self.document_prompt)
        matches = search(self.model, self.source, self.query, self.top, self.text_field, options, self.query_prompt)
        for score, record in matches:
            print(f"{score:7.4f}  {' '.join(record[self.text_field].split())[:160]}")


class Predict(verb.Verb):
    """Write the records of a source with a fine-tuned model's predictions.

    Example: jaxencoder predict runs/sst2 --input texts.jsonl --output predictions.jsonl
    """

    model: verb.ModelName
    input: verb.Source
    """Records: .jsonl, .parquet, tfds:NAME, ..."""
    output: Path
    """File to write: .jsonl or .parquet."""
    text_field: verb.TextField = None
    pair_field: verb.PairField = None
    probabilities: bool = False
    """Write the probabilities of all classes."""
    threshold: Annotated[float | None, verb.default_is("0.5")] = None
    """For several classes per text: lowest probability of a predicted class."""
    no_answer: bool = False
    """For published question-answering models: a question may have no answer."""
    batch_tokens: verb.BatchTokens = None
    long_texts: OmitArgPrefixes[verb.LongTextOptions] = field(default_factory=verb.LongTextOptions)

    def run(self) -> None:
        keep_freed_memory()
        from jaxencoder.inference.predict import predict_file

        options = verb.given(self, "text_field", "pair_field", "threshold", "batch_tokens")
        options |= {name: True for name in ("probabilities", "no_answer") if getattr(self, name)}
        if windows := self.long_texts.window_config():
            options["windows"] = windows
        count = predict_file(self.model, self.input, self.output, **options)
        print(f"{count} records in {self.output}")


class Convert(verb.Verb):
    """Write a model in another format.

    Example: jaxencoder convert runs/sst2 sst2-transformers --to transformers
    """

    model: verb.ModelName
    folder: NewFolder
    to: Literal["transformers", "sentence-transformers", "run", "adapter", "peft"]
    """Library that loads it; run: for --init-from; adapter: the trained parameters without their base."""
    pooling: Annotated[Pooling | None, verb.default_is("the model's own, or mean")] = None
    """For sentence-transformers: its pooling."""
    normalize: Annotated[bool, verb.default_is("as the model does")] = False
    """For sentence-transformers: scale vectors to length 1."""

    def run(self) -> None:
        from jaxencoder.checkpoints.convert import convert

        convert(self.model, self.folder, self.to, self.pooling, self.normalize or None)
        print(f"{self.model} in {self.folder}, for {self.to}")


class Extend(verb.Verb):
    """Write a model that reads longer texts than it was trained on.

    Methods: interpolate or tile for learned positions; linear, ntk, dynamic, yarn or none for rotary ones; none, or
    interpolate for log-bucketed distances, for all others.

    Example: jaxencoder extend runs/small runs/small_long --max-length 2048 --method tile
    """

    model: verb.ModelName
    folder: NewFolder
    max_length: Annotated[int, arg(metavar="N")]
    """Tokens that the new model reads."""
    method: Literal["interpolate", "tile", "linear", "ntk", "dynamic", "yarn", "none"]
    """How positions are extended."""
    factor: Annotated[float | None, verb.default_is("N over the trained length")] = None
    """Scaling factor."""
    window: Annotated[int, arg(metavar="W")] = 0
    """Restrict global layers to W tokens on either side; 0: keep them global."""
    global_tokens: bool = False
    """With --window: add Longformer's global tokens."""

    def run(self) -> None:
        from jaxencoder.checkpoints.extend import extend

        options = self.max_length, self.method, self.factor, self.window, self.global_tokens
        kind = extend(self.model, self.folder, *options)
        print(f"{self.model} for {self.max_length} tokens in {self.folder}, a folder of kind {kind}")


class KeepLayers(verb.Verb):
    """Write a model with some of the layers of another, as a start for distillation.

    Example: jaxencoder keep-layers MODEL student --layers 0 2 4
    """

    model: verb.ModelName
    folder: NewFolder
    layers: Annotated[tuple[int, ...], arg(metavar="N ...", help_behavior_hint="(required)")]
    """Numbers of the layers to keep, from 0."""

    def run(self) -> None:
        from jaxencoder.checkpoints.layers import keep_layers

        kind = keep_layers(self.model, self.folder, self.layers)
        print(f"Layers {' '.join(map(str, self.layers))} of {self.model} in {self.folder}, a folder of kind {kind}")
