"""Trains tokenizers of every kind so that the same texts give the same ids in every process and on any number of cores.

WordPiece: Schuster and Nakajima 2012 (as merges by frequency, Devlin et al. 2019); BPE: Sennrich et al. 2016, on bytes:
Radford et al. 2019; unigram: Kudo 2018, arXiv:1804.10959. Two of Hugging Face's trainers depend on the order of a
randomly seeded hash map: WordPiece numbers its ## characters by it, so they are numbered beforehand here; unigram sums
by it, so the pieces and scores come from SentencePiece's trainer, whose sums have a fixed order.
"""

import io
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from jaxencoder.text.config import TokenizerConfig
from jaxencoder.text.tokenizer_backends import (
    HuggingFaceBackend,
    SentencePieceBackend,
    bert_template,
    raise_invalid_text,
)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROLE_IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
# SentencePiece's sums over its threads have a fixed order for a fixed number, however many cores there are.
THREADS = 8
# Its memory for one sentence grows with its length, and it splits at spaces anyway.
SENTENCE = 4000
# The time of both libraries grows faster than the length of a word, and a broken file may be one word of megabytes.
WORD = 1000
LONG_WORD = re.compile(rf"(\S{{{WORD}}})(?=\S)")


def train_backend(texts: Iterable[str], config: TokenizerConfig) -> HuggingFaceBackend | SentencePieceBackend:
    """See `jaxencoder.text.tokenizer.train_tokenizer`."""
    stream = _Stream(texts, config.training_characters)
    if config.kind.startswith("sentencepiece"):
        rule = "nmt_nfkc_cf" if config.lowercase else "nmt_nfkc"
        model = _sentencepiece(stream, config, config.kind.removeprefix("sentencepiece-"), rule)
        return SentencePieceBackend(model, {}, "the trained model")
    train = {"wordpiece": _wordpiece, "bpe": _byte_level, "unigram": _unigram}[config.kind]
    return HuggingFaceBackend(train(stream, config), {}, "the trained tokenizer")


class _Stream:
    """At most `limit` characters of the texts, checked, endless words cut; keeps errors that a library would wrap."""

    def __init__(self, texts: Iterable[str], limit: int):
        self._texts, self._limit = texts, limit
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[str]:
        left, seen = self._limit, False
        try:
            for number, text in enumerate(self._texts):
                try:
                    text.encode()
                except (AttributeError, UnicodeEncodeError) as error:
                    # Counts from this text: say which one it is in the stream.
                    try:
                        raise_invalid_text([text], error)
                    except ValueError as clear:
                        raise ValueError(str(clear).replace("text 0", f"text {number}", 1)) from error
                text = text[:left] if self._limit else text
                seen = seen or (not text.isspace() and text != "")
                long = len(text) > WORD and max(map(len, text.split()), default=0) > WORD
                yield LONG_WORD.sub(r"\1 ", text) if long else text
                left -= len(text)
                if self._limit and left <= 0:
                    break
            if not seen:
                raise ValueError("there is no text to train a tokenizer on; check the source")
        except Exception as error:
            self.error = error

    def check(self) -> None:
        """Raises what went wrong while the stream was read."""
        if self.error is not None:
            raise self.error


def _wordpiece(stream: _Stream, config: TokenizerConfig) -> tokenizers.Tokenizer:
    normalizer = normalizers.BertNormalizer(lowercase=config.lowercase)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n") as spool:
        for text in stream:
            text = normalizer.normalize_str(text)
            counts.update(text)
            spool.write(text + "\n")
        stream.check()
        # Each character may cost two tokens: itself and its ## form.
        room = max(1, (config.vocab_size - len(SPECIAL)) // 2)
        ranked = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
        kept = set(ranked[: min(config.limit_alphabet, room)])
        drop = dict.fromkeys(map(ord, set(ranked) - kept))
        inner = [f"##{c}" for c in sorted(kept) if not _stands_alone(c)]
        tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token=SPECIAL[1]))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=config.vocab_size,
            min_frequency=config.min_frequency,
            special_tokens=[*SPECIAL, *inner],
            initial_alphabet=sorted(kept),
            show_progress=False,
        )
        spool.seek(0)
        tokenizer.train_from_iterator((line.translate(drop) for line in spool), trainer)
    # Built anew: the ## characters were special only to get their numbers.
    trained = tokenizers.Tokenizer(models.WordPiece(tokenizer.get_vocab(), unk_token=SPECIAL[1]))
    trained.normalizer = normalizer
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trained.decoder = decoders.WordPiece(prefix="##")
    return _with_specials(trained)


def _stands_alone(character: str) -> bool:
    """Whether BERT makes a word of the character: punctuation, and Chinese characters."""
    code = ord(character)
    ascii_sign = code < 128 and not character.isalnum()
    chinese = 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0x20000 <= code <= 0x2CEAF
    chinese = chinese or 0xF900 <= code <= 0xFAFF or 0x2F800 <= code <= 0x2FA1F
    return ascii_sign or chinese or unicodedata.category(character).startswith("P")


def _byte_level(stream: _Stream, config: TokenizerConfig) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    if config.lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter(stream), trainer)
    stream.check()
    trained = tokenizers.Tokenizer(tokenizer.model)
    trained.normalizer = tokenizer.normalizer
    trained.pre_tokenizer, trained.decoder = tokenizer.pre_tokenizer, tokenizer.decoder
    return _with_specials(trained, mask_takes_space=True, trim=True)


def _unigram(stream: _Stream, config: TokenizerConfig) -> tokenizers.Tokenizer:
    steps = [normalizers.Nmt(), normalizers.NFKC(), *([normalizers.Lowercase()] if config.lowercase else [])]
    normalizer = normalizers.Sequence([*steps, normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
    model = _sentencepiece(stream, config, "unigram", "identity", normalizer.normalize_str)
    trained = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [(trained.id_to_piece(index), trained.get_score(index)) for index in range(len(trained))]
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=ROLE_IDS["unk"], byte_fallback=False))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _with_specials(tokenizer, mask_takes_space=True)


def _with_specials(
    tokenizer: tokenizers.Tokenizer, mask_takes_space: bool = False, trim: bool = False
) -> tokenizers.Tokenizer:
    template = bert_template("[CLS]", "[SEP]", ROLE_IDS)
    # Without this a byte-level token's offsets hold the space before the word.
    trimming = processors.ByteLevel(trim_offsets=True)
    tokenizer.post_processor = processors.Sequence([trimming, template]) if trim else template
    tokens = [AddedToken(token, lstrip=mask_takes_space and token == "[MASK]", normalized=False) for token in SPECIAL]
    tokenizer.add_special_tokens(tokens)
    return tokenizer


def _sentencepiece(
    stream: _Stream, config: TokenizerConfig, kind: str, rule: str, prepare: Callable[[str], str] = str
) -> bytes:
    writer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(stream, prepare),
            model_writer=writer,
            model_type=kind,
            vocab_size=config.vocab_size,
            # A small corpus has fewer pieces than asked for.
            hard_vocab_limit=False,
            character_coverage=config.character_coverage,
            byte_fallback=config.byte_fallback,
            normalization_rule_name=rule,
            # The default leaves out every sentence above 4192 bytes.
            max_sentence_length=1 << 24,
            num_threads=THREADS,
            minloglevel=2,
            control_symbols=[SPECIAL[4]],
            **{f"{role}_id": index for role, index in zip(("pad", "unk", "bos", "eos"), range(4), strict=True)},
            **dict(zip(("pad_piece", "unk_piece", "bos_piece", "eos_piece"), SPECIAL, strict=False)),
        )
    except RuntimeError as error:
        stream.check()
        if "smaller than required_chars" in str(error):
            raise ValueError(
                f"tokenizer.vocab_size is {config.vocab_size}, too small for the characters of the texts; "
                "make it larger, or lower tokenizer.character_coverage"
            ) from error
        raise ValueError(f"SentencePiece cannot train on these texts: {str(error).splitlines()[0]}") from error
    stream.check()
    return writer.getvalue()


def _sentences(texts: Iterable[str], prepare: Callable[[str], str]) -> Iterator[str]:
    for text in texts:
        for line in text.splitlines():
            line = prepare(line)
            start = 0
            while len(line) - start > SENTENCE:
                cut = line.rfind(" ", start + 1, start + SENTENCE)
                cut = cut if cut > start else start + SENTENCE
                yield line[start:cut]
                start = cut
            if start < len(line):
                yield line[start:]
