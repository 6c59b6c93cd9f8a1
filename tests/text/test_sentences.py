"""Sentences join to their text, whatever its characters, and are split in every script."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxencoder.text.sentences import split_sentences, word_spans

LANGUAGES = ["arb", "deu", "eng", "fra", "hin", "jpn", "kor", "rus", "spa", "swa", "tha", "zho-TW"]


@pytest.mark.parametrize(
    "sentences",
    [
        ["Is it?", " Mr. No says it is.", '  "Ok!"', " She left at 5 p.m. today."],
        ["😀😀 Hi.", " “Ok.”", " She\0 said.", "\x1b A."],
        ["我是学生。", "你呢？", "「好的！」", "（再见。）", "『嗯。』"],
        [" (One.)", " [Two!]", " (Three)"],
        ["यह एक वाक्य है।", " यह दूसरा है॥", " हाँ?"],
        ["مرحبا؟", " نعم.", " یہ ہے۔", " ہاں"],
        ["ကောင်း။", " ဟုတ်။"],
        ["สวัสดีครับ", " วันนี้อากาศดี", " ไปไหน"],
        ["One line", "\nand another", "\r\nand one."],
        ["\nA line\nwrapped here,\r\n  and here", "\n\nA paragraph.", " \n \nEnd\nof it.\n\n"],
        [" only spaces before and after \n"],
        [" \n\t "],
        [],
    ],
)
def test_split(sentences: list[str]) -> None:
    assert split_sentences("".join(sentences)) == sentences


@given(
    st.text(st.sampled_from("ab .!?\n\r\t\"'()[]。！？।؟😀\u200b\u0301\0\x1c\x85\u2028\u00a0\u3000ABr1-…“”กข\ufeff"))
)
def test_sentences_join_to_the_text(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join(sentences) == text
    assert all(sentence.strip() and not sentence[-1].isspace() for sentence in sentences[:-1])
    assert not text.strip() or sentences[-1].strip()


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_of_many_languages(language: str, shared_data) -> None:
    """Lines that are mostly one sentence each, joined: most of their ends are detected, and few other positions.

    Thai has clauses, and where a number or a foreign name is beside the space, none.
    """
    lines = (shared_data / "parallel" / "ntrex" / f"{language}.txt").read_text(encoding="utf-8").splitlines()
    space = "" if language in ("jpn", "zho-TW") else " "
    parts = [space + line.strip() for line in lines if line.strip()]
    text = "".join(parts)
    sentences = split_sentences(text)
    assert "".join(sentences) == text
    ends, spans = (set(itertools.accumulate(map(len, some))) for some in (parts, sentences))
    assert len(ends & spans) > (0.5 if language == "tha" else 0.8) * len(ends)
    assert len(ends & spans) > (0.2 if language == "tha" else 0.7) * len(spans)


def test_lone_surrogate() -> None:
    with pytest.raises(ValueError, match="lone surrogate .U.D800. at character 2, which is not valid Unicode; decode"):
        split_sentences("a.\ud800")


def test_words_of_any_script() -> None:
    text = "हिन्दी में, Elbe's 你好世界 ไทยนี้ naïve 👩‍👩‍👧!\n"
    spans = word_spans(text)
    assert [text[a:b] for a, b in spans] == [
        *("हिन्दी", "में", ",", "Elbe's", "你好", "世界", "ไทย", "นี้"),
        *("naïve", "👩‍👩‍👧", "!"),
    ]
    assert word_spans("") == word_spans(" \n") == []
    with pytest.raises(ValueError, match="lone surrogate"):
        word_spans("a\ud800")
