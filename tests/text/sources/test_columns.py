"""Published layouts of words with tags give the words and tags that their authors mean."""

import gzip

import pytest

from jaxencoder.text.sources import read


def sentences(path, **options):
    return list(read(path, text_field="tokens", words=True, **options))


def tagged(path, field="ner_tags"):
    return [(sentence["tokens"], sentence[field]) for sentence in sentences(path)]


def test_conll_2003(write):
    text = "-DOCSTART- -X- O O\n# id 7 domain=en\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n\nPeter NNP B-NP B-PER\n"
    assert sentences(write("a.conll", text)) == [
        {
            "tokens": ["EU", "rejects"],
            "column_2": ["NNP", "VBZ"],
            "column_3": ["B-NP", "B-VP"],
            "ner_tags": ["B-ORG", "O"],
        },
        {"tokens": ["Peter"], "column_2": ["NNP"], "column_3": ["B-NP"], "ner_tags": ["B-PER"]},
    ]


@pytest.mark.parametrize("marker", ["", " -X- O O", "\tO", " -X- -X- -X- O", " (1)", " O"])
@pytest.mark.parametrize("gap", ["\n\n", "\n"])
def test_starts_of_documents(write, marker, gap):
    path = write("a.conll", f"-DOCSTART-{marker}{gap}the O\ncat B-X\n\n-DOCSTART-{marker}{gap}-DOCSTART-s O\n")
    assert tagged(path) == [(["the", "cat"], ["O", "B-X"]), (["-DOCSTART-s"], ["O"])]


@pytest.mark.parametrize(
    ("text", "tokens", "tags"),
    [
        ("New York\tB-LOC\nis\tO\n", ["New York", "is"], ["B-LOC", "O"]),
        ("10 000\tCD\tB-NUM\nmen\tNNS\tO\n", ["10 000", "men"], ["B-NUM", "O"]),
        ("10\u00a0000\tO\n", ["10\u00a0000"], ["O"]),
        ("10\u00a0000 O\n", ["10\u00a0000"], ["O"]),
        ("the\t\tO\ncat\tNN\tB-X\n", ["the", "cat"], ["O", "B-X"]),
        ("the\tO\nYork\tB-LOC city\n", ["the", "York"], ["O", "B-LOC city"]),
        ("New\tNNP\tB-LOC\n\tNN\tO\nbig\tJJ\tO\n", ["New", "big"], ["B-LOC", "O"]),  # a word without text
        ("the O\r\ncat B-X\r\n\t\r\n", ["the", "cat"], ["O", "B-X"]),
        ("#WNUT\tO\n#\tO\nat\tO\n", ["#WNUT", "#", "at"], ["O", "O", "O"]),
        ("# SYM O\n5 CD B-NUM\n", ["#", "5"], ["O", "B-NUM"]),
        ("# text = a cat\n# sent_id = 3\na cat\tO\n", ["a cat"], ["O"]),
        ("# a comment, and no tab\na cat\tO\n", ["a cat"], ["O"]),
        ("B-DISH\tfish\nO\tin\n", ["fish", "in"], ["B-DISH", "O"]),  # the tag first
        ("fish NN B-DISH _\nin IN O _\n", ["fish", "in"], ["B-DISH", "O"]),  # a placeholder last
        ("fish NN B-NP DISH\nin IN B-PP O\n", ["fish", "in"], ["DISH", "O"]),
        ("the DT\ncat NN\n", ["the", "cat"], ["DT", "NN"]),
        ("1 CD O\n\n2 CD O\n", ["1"], ["O"]),  # numbers that are words
    ],
)
def test_plain_columns(write, text, tokens, tags):
    assert tagged(write("a.conll", text))[0] == (tokens, tags)


def test_germeval(write):
    """The same as .tsv, the name of its published files, and with "#" before each sentence only."""
    text = (
        "#\thttp://de.example/a [2009]\n1\tFC\tB-ORG\tO\n2\tKöln\tI-ORG\tB-LOC\n3\t#\tO\tO\n\n#\tn-tv.de\n1\tab\tO\tO\n"
    )
    want = [
        {"tokens": ["FC", "Köln", "#"], "ner_tags": ["B-ORG", "I-ORG", "O"], "inner_tags": ["O", "B-LOC", "O"]},
        {"tokens": ["ab"], "ner_tags": ["O"], "inner_tags": ["O"]},
    ]
    assert sentences(write("a.conll", text)) == sentences(write("a.tsv", text)) == want
    assert sentences(write("b.tsv.gz", gzip.compress(text.encode()))) == want


def test_numbered_columns(write):
    uner = "# sent_id = 1\n# text = Peter sleeps\n1\tPeter\tB-PER\t-\tann\n2\tsleeps\tO\t-\tann\n"
    assert tagged(write("a.conll", uner)) == [(["Peter", "sleeps"], ["B-PER", "O"])]
    assert tagged(write("a.conll", "1\ta cat\tNN\n2\tran\tVBD\n")) == [(["a cat", "ran"], ["NN", "VBD"])]
    assert tagged(write("a.conll", "1 a DT b_x\n2 b NN o\n")) == [(["a", "b"], ["b_x", "o"])]
    (sentence,) = sentences(write("a.conll", "1\ta cat\tcat\tNN\n2\tran\trun\tVBD\n"))  # none is known for tags
    assert sentence == {"tokens": ["a cat", "ran"], "column_3": ["cat", "run"], "column_4": ["NN", "VBD"]}


@pytest.mark.parametrize("numbers", [(1, 2, 1, 2), (0, 1, 0, 1), (1, 2, 3, 4), (0, 1, 2, 3)])
def test_ways_to_number(write, numbers):
    text = "{}\ta\tO\n{}\tb\tB-X\n\n{}\tc\tO\n{}\td\tO\n".format(*numbers)
    assert tagged(write("a.conll", text)) == [(["a", "b"], ["O", "B-X"]), (["c", "d"], ["O", "O"])]


def test_tables_and_tagged_words_of_tsv(write):
    assert tagged(write("a.tsv", "New York\tB-LOC\nis\tO\n\nno\tO\n")) == [
        (["New York", "is"], ["B-LOC", "O"]),
        (["no"], ["O"]),
    ]
    assert tagged(write("a.tsv", "a\tO\r\n\r\nb\tB-X")) == [(["a"], ["O"]), (["b"], ["B-X"])]
    for header in ("text\tlabel", "#\ttext", "id\tO-type", "name\tE-mail", "text\tB-side", "sentence\tO"):
        name = header.split("\t")[0]
        assert list(read(write("a.tsv", f"{header}\na\tx\n"), text_field=name)) == [
            dict(zip(header.split("\t"), "ax", strict=True))
        ]


def test_ontonotes(write):
    start = "bc/cctv/00/cctv_0000 0"
    rows = [
        ("0", "The", "DT", "(ORG*", "(ARG0*", "-"),
        ("1", "Red", "NNP", "*", "*", "-"),
        ("2", "Cross", "NNP", "*)", "*)", "(1)"),
        ("3", "saw", "VBD", "*", "(V*)", "-"),
        ("4", "China", "NNP", "(GPE)", "(ARG1*)", "-"),
    ]
    line = "{} {} {} {} (TOP* - - - speaker {} {} {}"
    text = "\n".join(line.format(start, *row) for row in rows)
    text += f"\n\n{start} 0 Yes UH * - - - speaker * -\n{start} 1 . . * - - - speaker * -\n\n#end document\n"
    for comment in ("#begin document (bc/cctv/00/cctv_0000); part 000\n", ""):
        first, second = sentences(write("a.conll", comment + text))
        assert first["tokens"] == ["The", "Red", "Cross", "saw", "China"]
        assert first["ner_tags"] == ["B-ORG", "I-ORG", "I-ORG", "O", "B-GPE"]
        assert first["pos_tags"] == ["DT", "NNP", "NNP", "VBD", "NNP"]
        assert second == {"tokens": ["Yes", "."], "pos_tags": ["UH", "."], "ner_tags": ["O", "O"]}


@pytest.mark.parametrize("name", ["a.conllu", "a.conll"])
def test_conllu(write, name):
    rows = [
        "1-2\tzum" + "\t_" * 8,
        "1\tzu\tzu\tADP\tAPPR\t_\t3\tcase\t_\t_",
        "2\tdem\tder\tDET\tART\t_\t3\tdet\t_\t_",
        "2.1\tleer" + "\t_" * 8,
        "3\tEnde\tEnde\tNOUN\tNN\t_\t0\troot\t_\t_",
    ]
    (sentence,) = sentences(write(name, "# text = zum Ende\n#\n" + "\n".join(rows) + "\n\n"))
    assert sentence == {
        "tokens": ["zu", "dem", "Ende"],
        "lemmas": ["zu", "der", "Ende"],
        "upos": ["ADP", "DET", "NOUN"],
        "xpos": ["APPR", "ART", "NN"],
        "deprel": ["case", "det", "root"],
    }


def test_conllu_plus(write):
    text = (
        "# global.columns = ID FORM UPOS MISC NER\n# text = a\n1-2\tzum\t_\t_\t_\n1\tzu\tADP\t_\tO\n2\tdem\tDET\t_\tO\n"
    )
    (sentence,) = sentences(write("a.conllu", text))
    assert sentence["tokens"] == ["zu", "dem"] and sentence["upos"] == ["ADP", "DET"] and sentence["ner"] == ["O", "O"]
    with pytest.raises(ValueError, match=r"a\.conllu:1: global\.columns are ID, UPOS; one must be FORM"):
        sentences(write("a.conllu", "# global.columns = ID UPOS\n1\tADP\n"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.conll", "EU B-ORG\nrejects\n", r"a\.conll:2: one column, 'rejects'"),
        ("a.conll", "EU\nrejects\n", r"a\.conll:1: one column, 'EU'"),
        ("a.conll", "the DT O\nNew York NNP B-LOC\n", r"a\.conll:2: 4 columns, but 3 in other lines; separate them by"),
        ("a.conll", "the DT O\n\ncat O\n", r"a\.conll:3: 2 columns, but 3 in other lines"),
        ("a.conll", "the\tO\ncat O\n", r"a\.conll:2: one column, 'cat O'"),
        ("a.conll", "the\tO\n#cat O\n", r"a\.conll:2: one column, '#cat O'"),
        ("a.conll", "the\tDT\tO\ncat\tNN\t\n", r"a\.conll:2: 2 columns, but 3 in other lines; give each line as many"),
        ("a.conll", "1\ta\tO\tO\n2\tb\tO\tO\n\nc\td\tO\tO\n", r"a\.conll:4: the first column is 'c', not the number"),
        ("a.conll", b"caf\xe9 O\n", r"a\.conll:1: byte 0xe9 at column 4 is not UTF-8"),
        ("a.conllu", "1\tEU\tEU\n", r"a\.conllu:1: 3 columns, but 10 in other lines"),
        ("a.conllu", "x" + "\t_" * 9 + "\n", r"a\.conllu:1: the first column is 'x', not the number of a word"),
        ("a.conll", "# id 3\n\n-DOCSTART- O\n", r"a\.conll is empty"),
    ],
)
def test_one_clear_sentence(write, name, content, message):
    with pytest.raises(ValueError, match=message) as error:
        sentences(write(name, content))
    assert "\n" not in str(error.value)


def test_columns_in_a_text_file(write):
    with pytest.raises(ValueError, match=r"a\.txt:1: field 'tokens' is str, .* or rename a file of columns to \.conll"):
        sentences(write("a.txt", "the O\n"))


def test_a_long_file(write):
    """More sentences than tell the layout; a line that breaks it is found wherever it is."""
    rows = "".join(f"w{i}\tO\n\n" for i in range(150))
    assert len(sentences(write("a.conll", rows))) == 150
    with pytest.raises(ValueError, match=r"a\.conll:301: 3 columns, but 2"):
        sentences(write("a.conll", rows + "a\tb\tO\n"))
