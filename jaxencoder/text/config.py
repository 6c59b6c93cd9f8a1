"""Settings of the text side of a run: which tokenizer, which data, and how documents become rows."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

TokenizerKind = Literal["wordpiece", "bpe", "unigram", "sentencepiece-unigram", "sentencepiece-bpe"]
TextUnit = Literal["line", "paragraph", "file"]
Pairs = Literal["none", "nsp", "sop"]
LongTexts = Literal["truncate", "windows"]

OVERLAP = 128
# Before the two files of a source of aligned texts.
ALIGNED = "aligned:"


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _integer(value: object, name: str, least: int) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    _check(whole and value >= least, f"{name} is {value!r}; give a whole number of at least {least}")


def _number(value: object, name: str, low: float, high: float, rule: str) -> None:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    _check(real and math.isfinite(value) and low <= value <= high, f"{name} is {value!r}; {rule}")


def _strings(value: object, name: str) -> None:
    fine = isinstance(value, tuple) and all(isinstance(item, str) and item for item in value)
    _check(fine, f"{name} is {value!r}; give a tuple of non-empty strings")


def _text(value: object, name: str) -> None:
    _check(isinstance(value, str) and "\0" not in value, f"{name} is {value!r}; give a string")


def _flag(value: object, name: str) -> None:
    _check(isinstance(value, bool), f"{name} is {value!r}; give True or False")


def _choice(value: object, name: str, choices: tuple[str, ...]) -> None:
    _check(value in choices, f"{name} is {value!r}; give one of {', '.join(choices)}")


@dataclass(frozen=True)
class TokenizerConfig:
    """A tokenizer to load, or the settings with which one is trained from the training data."""

    path: str = ""
    """Folder or file of a tokenizer (tokenizer.json, vocab.txt, vocab.json + merges.txt, *.model); empty: train one."""
    kind: TokenizerKind = "wordpiece"
    """What to train: wordpiece, byte-level bpe or unigram (Hugging Face tokenizers), or either sentencepiece kind."""
    vocab_size: int = 16384
    """Number of tokens to train, special tokens included; a small corpus may give fewer."""
    lowercase: bool = True
    """Lowercase the text before tokenising; wordpiece also strips accents then, as BERT uncased does."""
    min_frequency: int = 2
    """Pairs rarer than this are never merged (wordpiece and bpe only)."""
    limit_alphabet: int = 1000
    """Most distinct characters kept in the vocabulary (wordpiece only); rarer ones become the unknown token."""
    character_coverage: float = 0.9995
    """SentencePiece only: share of the characters of the corpus kept in the vocabulary; the rest become unknown."""
    byte_fallback: bool = False
    """SentencePiece only: write characters outside the vocabulary as UTF-8 bytes, so that nothing is ever unknown."""
    training_characters: int = 200_000_000
    """Characters to train on, from the start of the stream; this bounds the memory of training. 0: all of it."""

    def __post_init__(self) -> None:
        _text(self.path, "tokenizer.path")
        _choice(self.kind, "tokenizer.kind", get_args(TokenizerKind))
        _flag(self.lowercase, "tokenizer.lowercase")
        _flag(self.byte_fallback, "tokenizer.byte_fallback")
        _integer(self.vocab_size, "tokenizer.vocab_size", 16)
        _integer(self.min_frequency, "tokenizer.min_frequency", 1)
        _integer(self.limit_alphabet, "tokenizer.limit_alphabet", 1)
        _integer(self.training_characters, "tokenizer.training_characters", 0)
        rule = "give a share above 0.9 and at most 1"
        _number(self.character_coverage, "tokenizer.character_coverage", 0.9, 1.0, rule)
        if self.byte_fallback and not self.kind.startswith("sentencepiece"):
            raise ValueError(f"tokenizer.byte_fallback needs a sentencepiece kind, not {self.kind!r}; leave it off")
        if self.kind == "bpe" and self.vocab_size < 261:
            raise ValueError(
                f"tokenizer.vocab_size is {self.vocab_size}; byte-level bpe needs at least 261 (256 bytes, 5 special)"
            )
        if self.byte_fallback and self.vocab_size < 300:
            raise ValueError(f"tokenizer.vocab_size is {self.vocab_size}; with byte_fallback give at least 300")


@dataclass(frozen=True)
class DataConfig:
    """Where the text comes from and how it is cut into fixed-length rows."""

    train: tuple[str, ...] = ("pydocs",)
    """Sources: pydocs, tfds:NAME/CONFIG:SPLIT, files (path, glob, folder, gs://, s3://) of .jsonl .txt .parquet .csv
    .tsv .conll .conllu or SQuAD's .json, or aligned:FILE|FILE, two text files with as many lines, each other's
    translations."""
    weights: tuple[float, ...] = ()
    """Mixture weights, one a training source; empty: each source by its size to the power 1/temperature."""
    temperature: float = 1.0
    """Flattens a mixture without weights: 1 draws by size, larger values draw small sources more often."""
    validation: tuple[str, ...] = ()
    """Held-out sources; empty: hold out validation_fraction of the training documents."""
    validation_fraction: float = 0.02
    """Share of the training documents held out when there are no validation sources; 0: none."""
    text_field: str = "text"
    """Field of a record that holds the text."""
    pair_field: str = ""
    """Field that holds the second text of a pair; empty: single texts. Without labels, sources whose first record lacks
    it hold single texts, beside others that hold pairs."""
    label_field: str = ""
    """Field that holds the label, or a list of the classes that the text has, which may be empty; set, each record is
    one labelled example that is truncated, or read in windows (data.long_texts). Of labelled records, fields that are not
    there by these names are looked for among the usual ones, and shown."""
    long_texts: LongTexts = "truncate"
    """What of a labelled single text that is longer than a row: its beginning, or all of it in windows, each an example
    with the text's label. The held-out metrics of training are then those of windows; evaluate and predict read whole
    texts with --long windows."""
    overlap: int = OVERLAP
    """Tokens that a piece of the second text has in common with the one before it, at most half of it, with span; and a
    window of a text, with long windows."""
    labels: tuple[str, ...] = ()
    """Class names in order of id; empty: found in the training data (sorted; whole numbers keep their order)."""
    balance: float = 0.0
    """Repeat the training examples of rare classes of a source: 1 until all have as many as the largest, less to that
    power, 0 not at all."""
    text_unit: TextUnit = "line"
    """What one document is in a plain text file: a line, a paragraph (separated by blank lines), or the whole file."""
    pairs: Pairs = "none"
    """Pairs out of documents, for objective.pairs: nsp, what follows or text of another document (BERT); sop, two texts
    in order or swapped (ALBERT)."""
    short_pair_probability: float = 0.1
    """Share of these pairs that are made shorter than a row, to a random length."""
    row_length: int = 128
    """Tokens a row, special tokens and padding included."""
    packing: bool = True
    """Put several documents in one row; attention never crosses them. Off: one document a row."""
    cache: str = ""
    """Folder for prepared rows; empty: $JAXENCODER_CACHE, or else ~/.cache/jaxencoder."""
    workers: int = 0
    """Processes that tokenise; 0: one per core."""

    def __post_init__(self) -> None:
        _strings(self.train, "data.train")
        _check(len(self.train) > 0, "data.train is empty; name at least one source, for example pydocs")
        _strings(self.validation, "data.validation")
        _strings(self.labels, "data.labels")
        _check(isinstance(self.weights, tuple), f"data.weights is {self.weights!r}; give a tuple of numbers")
        for weight in self.weights:
            _number(weight, "data.weights", 0.0, math.inf, "give finite weights of at least 0")
        if self.weights:
            rule = f"data.weights has {len(self.weights)} numbers for {len(self.train)} training sources; give one each"
            _check(len(self.weights) == len(self.train), rule)
            _check(sum(self.weights) > 0, f"data.weights is {self.weights!r}; at least one must be above 0")
        _number(self.temperature, "data.temperature", 1e-3, math.inf, "give a finite number of at least 0.001")
        rule = "give a share of at least 0 and at most 0.9"
        _number(self.validation_fraction, "data.validation_fraction", 0.0, 0.9, rule)
        for name in ("text_field", "pair_field", "label_field", "cache"):
            _text(getattr(self, name), f"data.{name}")
        _check(self.text_field != "", "data.text_field is empty; name the field that holds the text")
        _check(
            self.pair_field != self.text_field,
            f"data.pair_field is {self.pair_field!r}, as is text_field; name another",
        )
        rule = f"data.label_field is {self.label_field!r}, which is also a text field; name another"
        _check(not self.label_field or self.label_field not in (self.text_field, self.pair_field), rule)
        repeated = sorted({label for label in self.labels if self.labels.count(label) > 1})
        _check(not repeated, f"data.labels names {', '.join(repeated)} more than once; give each class once")
        _check(
            not self.labels or self.label_field != "",
            "data.labels is set but data.label_field is empty; name the field",
        )
        _number(self.balance, "data.balance", 0.0, 1.0, "give a number of at least 0 and at most 1")
        _check(not self.balance or self.label_field != "", f"data.balance is {self.balance}; it needs data.label_field")
        _integer(self.overlap, "data.overlap", 0)
        _choice(self.long_texts, "data.long_texts", get_args(LongTexts))
        if self.long_texts == "windows":
            is_single = self.label_field != "" and not self.pair_field
            _check(is_single, "data.long_texts is 'windows', which is for labels of single texts; leave it out")
        _choice(self.text_unit, "data.text_unit", get_args(TextUnit))
        _choice(self.pairs, "data.pairs", get_args(Pairs))
        _number(
            self.short_pair_probability,
            "data.short_pair_probability",
            0.0,
            1.0,
            "give a share of at least 0 and at most 1",
        )
        # [CLS], one token, [SEP]; of a pair four special tokens (RoBERTa has two between the texts), two tokens each
        _integer(self.row_length, "data.row_length", 3 if self.pairs == "none" else 8)
        given = [name for name in ("label_field", "pair_field") if getattr(self, name)]
        given += [source for source in (*self.train, *self.validation) if source.startswith(ALIGNED)]
        rule = f"data.pairs is {self.pairs!r}, which makes pairs out of documents; leave out "
        _check(self.pairs == "none" or not given, rule + ", ".join(given))
        _flag(self.packing, "data.packing")
        _integer(self.workers, "data.workers", 0)

    @property
    def paired(self) -> bool:
        """Whether there are rows of two texts."""
        aligned = any(source.startswith(ALIGNED) for source in (*self.train, *self.validation))
        return bool(self.pair_field) or self.pairs != "none" or aligned
