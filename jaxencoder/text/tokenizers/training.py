"""Training of tokenizers of every kind, with the same result in every process and on any number of cores.

WordPiece: Schuster and Nakajima 2012 (as merges by frequency, Devlin et al. 2019); BPE: Sennrich et al. 2016, on bytes:
Radford et al. 2019; unigram: Kudo 2018, arXiv:1804.10959. Two trainers of Hugging Face's library depend on the order of
a randomly seeded hash map. WordPiece numbers its ## characters by it, so they are numbered beforehand here. Unigram
sums by it, so SentencePiece's trainer, whose sums have a fixed order, provides the pieces and scores.
"""

import io
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import sentencepiece
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from jaxencoder.text.config import TokenizerConfig
from jaxencoder.text.tokenizers import huggingface
from jaxencoder.text.tokenizers.encoding import ROLES, USUAL_NAMES, raise_invalid_text
from jaxencoder.text.tokenizers.sentencepiece_backend import SentencePieceBackend
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

_ROLE_IDS = {role: index for index, role in enumerate(ROLES)}
_NAMES = {role: USUAL_NAMES[role][0] for role in ROLES}
_SPECIAL = tuple(_NAMES.values())
_THREADS = 8  # SentencePiece's sums have a fixed order for a fixed number of threads, however many cores there are
_MAX_SENTENCE = 4000  # SentencePiece's memory for a sentence grows with its length, and it splits at spaces anyway
# The time of both libraries grows faster than the length of a word, and a broken file may be one word of megabytes.
_MAX_WORD = 1000
_CHINESE = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2CEAF), (0x2F800, 0x2FA1F))
_LONG_WORD = re.compile(rf"(\S{{{_MAX_WORD}}})(?=\S)")


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Train a tokenizer on a stream of texts, of which at most `config.training_characters` are read.

    Memory holds counts of words (bpe) or the text (unigram, sentencepiece); wordpiece writes a temporary file.

    Raises:
        ValueError: no text, text that is not valid Unicode, or a vocabulary too small for its characters.
    """
    stream = _Stream(texts, config.training_characters)
    if config.kind.startswith("sentencepiece"):
        rule = "nmt_nfkc_cf" if config.lowercase else "nmt_nfkc"
        model = _train_sentencepiece(stream, config, config.kind.removeprefix("sentencepiece-"), rule)
        return Tokenizer(SentencePieceBackend(model, {}, "the trained model"))
    train = {"wordpiece": _train_wordpiece, "bpe": _train_byte_level, "unigram": _train_unigram}[config.kind]
    return Tokenizer(huggingface.HuggingFaceBackend(train(stream, config), {}, "the trained tokenizer"))


class _Stream:
    """At most `limit` characters of valid text, with long words split; a limit of 0 is none.

    An error ends the stream and is kept for `check`, since the libraries would wrap one that is raised.
    """

    def __init__(self, texts: Iterable[str], limit: int):
        self._texts, self._limit = texts, limit
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[str]:
        remaining, has_text = self._limit, False
        try:
            for number, text in enumerate(self._texts):
                try:
                    text.encode()
                except (AttributeError, UnicodeEncodeError) as error:
                    raise_invalid_text([text], error, number)
                text = text[:remaining] if self._limit else text
                has_text = has_text or (not text.isspace() and text != "")
                is_long = len(text) > _MAX_WORD and max(map(len, text.split()), default=0) > _MAX_WORD
                yield _LONG_WORD.sub(r"\1 ", text) if is_long else text
                remaining -= len(text)
                if self._limit and remaining <= 0:
                    break
            if not has_text:
                raise ValueError("there is no text to train a tokenizer on; check the source")
        except Exception as error:
            self.error = error

    def check(self) -> None:
        if self.error is not None:
            raise self.error


def _train_wordpiece(stream: _Stream, config: TokenizerConfig) -> tokenizers.Tokenizer:
    normalizer = normalizers.BertNormalizer(lowercase=config.lowercase)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n") as spool:
        for text in stream:
            text = normalizer.normalize_str(text)
            counts.update(text)
            spool.write(text + "\n")
        stream.check()
        # A character may need two tokens: itself and its ## form.
        room = max(1, (config.vocab_size - len(_SPECIAL)) // 2)
        ranked = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
        alphabet = set(ranked[: min(config.limit_alphabet, room)])
        dropped = dict.fromkeys(map(ord, set(ranked) - alphabet))
        tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token=_NAMES["unk"]))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=config.vocab_size,
            min_frequency=config.min_frequency,
            special_tokens=[*_SPECIAL, *(f"##{c}" for c in sorted(alphabet) if not _is_word(c))],
            initial_alphabet=sorted(alphabet),
            show_progress=False,
        )
        spool.seek(0)
        tokenizer.train_from_iterator((line.translate(dropped) for line in spool), trainer)
    # Built anew, since the ## characters were special tokens only to be numbered.
    return _add_steps(huggingface.wordpiece(tokenizer.get_vocab(), _NAMES["unk"], normalizer), mask_takes_space=False)


def _is_word(character: str) -> bool:
    """Whether BERT's pre-tokenizer makes the character a word, so that it has no ## form: punctuation and Chinese."""
    is_sign = (character.isascii() and not character.isalnum()) or unicodedata.category(character).startswith("P")
    return is_sign or any(first <= ord(character) <= last for first, last in _CHINESE)


def _train_byte_level(stream: _Stream, config: TokenizerConfig) -> tokenizers.Tokenizer:
    tokenizer = huggingface.byte_level(models.BPE())
    if config.lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter(stream), trainer)
    stream.check()
    # Built anew, since the trainer has added the special tokens with other options.
    trained = huggingface.byte_level(tokenizer.model)
    trained.normalizer = tokenizer.normalizer
    return _add_steps(trained, trim_offsets=True)


def _train_unigram(stream: _Stream, config: TokenizerConfig) -> tokenizers.Tokenizer:
    steps = [normalizers.Nmt(), normalizers.NFKC(), *([normalizers.Lowercase()] if config.lowercase else [])]
    normalizer = normalizers.Sequence([*steps, normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
    model = _train_sentencepiece(stream, config, "unigram", "identity", normalizer.normalize_str)
    trained = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [(trained.id_to_piece(index), trained.get_score(index)) for index in range(len(trained))]
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=_ROLE_IDS["unk"], byte_fallback=False))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _add_steps(tokenizer)


def _add_steps(
    tokenizer: tokenizers.Tokenizer, mask_takes_space: bool = True, trim_offsets: bool = False
) -> tokenizers.Tokenizer:
    template = huggingface.pair_template(_NAMES, _ROLE_IDS)
    # Without trimming, the offsets of a byte-level token include the space before the word.
    steps = [processors.ByteLevel(trim_offsets=True), template]
    tokenizer.post_processor = processors.Sequence(steps) if trim_offsets else template
    huggingface.add_special_tokens(tokenizer, _NAMES, mask_takes_space)
    return tokenizer


def _train_sentencepiece(
    stream: _Stream, config: TokenizerConfig, kind: str, rule: str, normalize: Callable[[str], str] = str
) -> bytes:
    """A serialized model of a kind, unigram or bpe; `rule` names its normalization.

    `normalize`, by default none, comes before it.
    """
    writer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_short_lines(stream, normalize),
            model_writer=writer,
            model_type=kind,
            vocab_size=config.vocab_size,
            hard_vocab_limit=False,  # a small corpus has fewer pieces than requested
            character_coverage=config.character_coverage,
            byte_fallback=config.byte_fallback,
            normalization_rule_name=rule,
            max_sentence_length=1 << 24,  # the default leaves out every sentence above 4192 bytes
            num_threads=_THREADS,
            minloglevel=2,
            control_symbols=[_NAMES["mask"]],
            # SentencePiece's bos and eos are the roles cls and sep.
            **{f"{role}_id": index for index, role in enumerate(("pad", "unk", "bos", "eos"))},
            **dict(zip(("pad_piece", "unk_piece", "bos_piece", "eos_piece"), _SPECIAL, strict=False)),
        )
    except RuntimeError as error:
        stream.check()
        if "smaller than required_chars" in str(error):
            problem = f"tokenizer.vocab_size is {config.vocab_size}, too small for the characters of the texts"
            raise ValueError(f"{problem}; make it larger, or lower tokenizer.character_coverage") from error
        raise ValueError(f"SentencePiece cannot train on these texts: {str(error).splitlines()[0]}") from error
    stream.check()
    return writer.getvalue()


def _short_lines(texts: Iterable[str], normalize: Callable[[str], str]) -> Iterator[str]:
    """Normalized lines, split before a space or else anywhere to at most _MAX_SENTENCE characters."""
    for text in texts:
        for line in map(normalize, text.splitlines()):
            start = 0
            while len(line) - start > _MAX_SENTENCE:
                space = line.rfind(" ", start + 1, start + _MAX_SENTENCE)
                end = space if space > start else start + _MAX_SENTENCE
                yield line[start:end]
                start = end
            if start < len(line):
                yield line[start:]
