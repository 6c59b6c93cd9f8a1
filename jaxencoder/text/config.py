"""Settings of texts: the tokenizer, the data, how documents become rows, and windows over long texts."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

TokenizerKind = Literal["wordpiece", "bpe", "unigram", "sentencepiece-unigram", "sentencepiece-bpe"]
TextUnit = Literal["line", "paragraph", "file"]
Pairs = Literal["none", "nsp", "sop"]
LongTexts = Literal["truncate", "windows"]
BatchSources = Literal["mixed", "one"]
Engine = Literal["process", "ray"]
WindowPooling = Literal["mean", "max", "first", "length", "learned"]

OVERLAP = 128
# Prefix of the two files of a source of aligned texts.
ALIGNED = "aligned:"

_TYPE_NAMES = {str: "a string", bool: "True or False", int: "a whole number", float: "a finite number"}


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_types(config: Any, section: str) -> None:
    """Check all settings against their annotations: str, bool, int, float, tuples of them, and literals."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(hint) is Literal:
            fits, expected = value in get_args(hint), f"one of {', '.join(get_args(hint))}"
        elif get_origin(hint) is tuple:
            item = get_args(hint)[0]
            fits = isinstance(value, tuple) and all(_fits(x, item) and x != "" for x in value)
            expected = f"a tuple of {'non-empty strings' if item is str else 'finite numbers'}"
        else:
            fits, expected = _fits(value, hint) and not (hint is str and "\0" in value), _TYPE_NAMES[hint]
        _check(fits, f"{section}.{name} is {value!r}; give {expected}")


def _fits(value: Any, hint: type) -> bool:
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _check_range(config: Any, section: str, limits: dict[str, tuple[float, float]]) -> None:
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        rule = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        kind = "a whole number" if isinstance(low, int) else "a number"
        _check(low <= value <= high, f"{section}.{name} is {value}; give {kind} {rule}")


@dataclass(frozen=True)
class TokenizerConfig:
    """A tokenizer to load, or the settings with which one is trained on the training data."""

    path: str = ""
    """Folder or file of a tokenizer (tokenizer.json, vocab.txt, vocab.json + merges.txt, *.model). Empty: train one."""
    kind: TokenizerKind = "wordpiece"
    """Algorithm to train: wordpiece, byte-level bpe or unigram of Hugging Face tokenizers, or a sentencepiece kind."""
    vocab_size: int = 16384
    """Number of tokens to train, special tokens included. A small corpus may give fewer."""
    lowercase: bool = True
    """Lowercase the text before tokenizing. With wordpiece, accents are stripped too, as in BERT uncased."""
    min_frequency: int = 2
    """Pairs rarer than this are never merged (wordpiece and bpe only)."""
    limit_alphabet: int = 1000
    """Most distinct characters kept in the vocabulary (wordpiece only). Rarer ones become the unknown token."""
    character_coverage: float = 0.9995
    """Fraction of the characters of the corpus kept in the vocabulary (sentencepiece only). The rest become unknown."""
    byte_fallback: bool = False
    """Encode characters outside the vocabulary as UTF-8 bytes, so that nothing is unknown (sentencepiece only)."""
    training_characters: int = 200_000_000
    """Characters to train on, from the start of the data; this bounds the memory of training. 0: all of them."""

    def __post_init__(self) -> None:
        _check_types(self, "tokenizer")
        least = {"vocab_size": 16, "min_frequency": 1, "limit_alphabet": 1, "training_characters": 0}
        limits = {name: (low, math.inf) for name, low in least.items()}
        _check_range(self, "tokenizer", limits | {"character_coverage": (0.9, 1.0)})
        rule = f"tokenizer.byte_fallback needs a sentencepiece kind, not {self.kind!r}; leave it off"
        _check(not self.byte_fallback or self.kind.startswith("sentencepiece"), rule)
        size = f"tokenizer.vocab_size is {self.vocab_size}"
        _check(self.kind != "bpe" or self.vocab_size >= 261, f"{size}; byte-level bpe needs at least 261 tokens")
        _check(not self.byte_fallback or self.vocab_size >= 300, f"{size}; with byte_fallback give at least 300")


@dataclass(frozen=True)
class DataConfig:
    """Sources of text, and how their documents become rows of a fixed length."""

    train: tuple[str, ...] = ("pydocs",)
    """Sources: pydocs, tfds:NAME/CONFIG:SPLIT, files (path, glob, folder, gs://, s3://) of .jsonl .txt .parquet .csv
    .tsv .conll .conllu or SQuAD's .json, or aligned:FILE|FILE, two text files whose lines are translations of each
    other."""
    weights: tuple[float, ...] = ()
    """Mixture weights, one per training source. Empty: each source by its size to the power 1/temperature."""
    temperature: float = 1.0
    """Flattens a mixture without weights: 1 draws by size, larger values draw small sources more often."""
    batch_sources: BatchSources = "mixed"
    """Sources of the rows of a batch: all training sources (mixed), or one, which changes from batch to batch as the
    mixture decides; with equal weights, such as 1 1, the sources take turns."""
    validation: tuple[str, ...] = ()
    """Held-out sources. Empty: hold out validation_fraction of the training documents."""
    validation_fraction: float = 0.02
    """Fraction of the training documents held out if there are no validation sources. 0: none."""
    text_field: str = "text"
    """Field of the text in a record."""
    pair_field: str = ""
    """Field of the second text of a pair. Empty: single texts. Without labels, a source whose first record lacks this
    field holds single texts, and may be mixed with sources of pairs."""
    label_field: str = ""
    """Field of the label, as the objective's task needs it: for a text a class, a list of classes, which may be empty,
    or a value; for a list of words (text_field) a tag for each, -100 for none; for a question (text_field) and a text
    (pair_field) its answers in SQuAD's structure; for a context (text_field) and a list of choices (pair_field) the
    right one's number from 0, letter or text; for a query (text_field) and a document or several (pair_field) a number
    for each. Each record is one example; words and texts with answers are split into
    several pieces. Fields missing from labeled records are replaced by usual names, which are printed. In a file of
    columns, column_2 is the second one."""
    long_texts: LongTexts = "truncate"
    """What to do with labeled single texts longer than a row: truncate, or split into overlapping windows, each an
    example with the text's label, also in held-out metrics. To evaluate and predict whole texts, use --long windows."""
    overlap: int = OVERLAP
    """Tokens that windows of a text share, at most half a window: with long_texts windows and in question answering."""
    labels: tuple[str, ...] = ()
    """Class names in order of id. Empty: those of the training data, sorted, whole numbers in numeric order."""
    balance: float = 0.0
    """Repeat training examples of rare classes in each source: 1 until all classes are as frequent as the largest, less
    to that power, 0 not at all."""
    text_unit: TextUnit = "line"
    """One document of a plain text file: a line, a paragraph (between blank lines), or the whole file."""
    pairs: Pairs = "none"
    """Pairs made of documents, for objective.pairs. nsp: a text and the next one or one of another document (BERT).
    sop: two texts in order or swapped (ALBERT)."""
    short_pair_probability: float = 0.1
    """Probability that such a pair is shorter than a row, of a random length."""
    row_length: int = 128
    """Tokens per row, special tokens and padding included."""
    text_length: int = 0
    """Most tokens of a text in training of embeddings, or of a query with a document in reranking. Their rows hold
    several texts and may be longer than the model's positions. 0: a row, or the positions of init_from if these are
    fewer."""
    packing: bool = True
    """Put several documents in one row; attention never crosses them. Off: one document per row."""
    cache: str = ""
    """Folder of prepared rows. Empty: $JAXENCODER_CACHE, or else ~/.cache/jaxencoder."""
    engine: Engine = "process"
    """Where texts are tokenized: process, in processes of this machine, or ray, in tasks of Ray, on this machine or the
    cluster that RAY_ADDRESS names. The rows are the same."""
    workers: int = 0
    """Processes that tokenize, or tasks of Ray under way at once. 0: one per core that this process may use, or two per
    CPU of Ray."""

    def __post_init__(self) -> None:
        _check_types(self, "data")
        limits = {
            "temperature": (0.001, math.inf),
            "validation_fraction": (0.0, 0.9),
            "overlap": (0, math.inf),
            "balance": (0.0, 1.0),
            "short_pair_probability": (0.0, 1.0),
            # [CLS], one token, [SEP]; in a pair four special tokens (RoBERTa has two between texts), two of each text
            "row_length": (3 if self.pairs == "none" else 8, math.inf),
            "text_length": (0, math.inf),
            "workers": (0, math.inf),
        }
        _check_range(self, "data", limits)
        self._check_sources()
        self._check_fields()
        is_single = self.label_field != "" and not self.pair_field
        rule = "data.long_texts is 'windows', which is for labels of single texts; leave it out"
        _check(self.long_texts == "truncate" or is_single, rule)

    def _check_sources(self) -> None:
        _check(len(self.train) > 0, "data.train is empty; name at least one source, for example pydocs")
        if self.weights:
            count = f"data.weights has {len(self.weights)} numbers for {len(self.train)} training sources"
            _check(len(self.weights) == len(self.train), f"{count}; give one each")
            fits = min(self.weights) >= 0 and sum(self.weights) > 0
            _check(fits, f"data.weights is {self.weights}; give weights of at least 0, one of them above 0")

    def _check_fields(self) -> None:
        text, pair, label = self.text_field, self.pair_field, self.label_field
        _check(text != "", "data.text_field is empty; name the field that holds the text")
        _check(pair != text, f"data.pair_field is {pair!r}, as is text_field; name another")
        rule = f"data.label_field is {label!r}, which is also a text field; name another"
        _check(label == "" or label not in (text, pair), rule)
        repeated = sorted({name for name in self.labels if self.labels.count(name) > 1})
        _check(not repeated, f"data.labels names {', '.join(repeated)} more than once; give each class once")
        if not label:
            _check(not self.labels, "data.labels is set but data.label_field is empty; name the field")
            _check(not self.balance, f"data.balance is {self.balance}; it needs data.label_field")
        if self.pairs != "none":
            conflicts = [name for name in ("label_field", "pair_field") if getattr(self, name)]
            conflicts += [source for source in (*self.train, *self.validation) if source.startswith(ALIGNED)]
            rule = f"data.pairs is {self.pairs!r}, which makes pairs out of documents; leave out {', '.join(conflicts)}"
            _check(not conflicts, rule)

    @property
    def text_limit(self) -> int:
        """Most tokens of a text, or pair of texts, special tokens included."""
        return min(self.text_length or self.row_length, self.row_length)

    @property
    def paired(self) -> bool:
        """Whether there are rows of two texts."""
        aligned = any(source.startswith(ALIGNED) for source in (*self.train, *self.validation))
        return bool(self.pair_field) or self.pairs != "none" or aligned


@dataclass(frozen=True)
class WindowConfig:
    """Overlapping windows over texts longer than a model reads at once.

    A token belongs to the window with the most context around it. A window is pooled over its own tokens as if they
    were a text: "weightedmean" counts positions from 1 in each window, "mean_sqrt_len" divides by the root of its
    number of tokens; "cls" and "lasttoken" take the window's first or last token. The vectors of a text's windows are
    then pooled into one, and the modules after pooling come last. A prompt is repeated in each window and pooled once.

    Attributes:
        stride: tokens from the start of a window to the start of the next; None: half of the room for text.
        pooling: how the windows of a text become one vector or one row of probabilities. "length" averages windows
            weighted by the tokens that belong to them: with mean pooling this is the mean of all tokens, each once.
            "mean" weights windows equally. "max" takes the largest values. "first" reads the first window only.
            "learned" applies a run's learned pooling to the tokens of all windows. None: "learned" for embeddings with
            pooling "learned", otherwise "length".
    """

    stride: int | None = None
    pooling: WindowPooling | None = None

    def __post_init__(self) -> None:
        if self.pooling is not None and self.pooling not in get_args(WindowPooling):
            raise ValueError(f"window pooling is {self.pooling!r}; give one of {', '.join(get_args(WindowPooling))}")
        if self.pooling == "first" and self.stride is not None:
            raise ValueError(f"stride is {self.stride}, but window pooling 'first' reads one window; leave it out")
