import pytest

from jaxencoder.tasks.records import with_texts


def test_what_holds_what_it_must():
    record = {"a": "x", "b": "", "words": ["x", ""], "none": [], "fixed": ("x", "y")}
    assert with_texts(record, ("a", "b", ""), "here") is record
    for name in record:
        assert with_texts(record, (name,), "here", words=True) is record


@pytest.mark.parametrize("value", [None, 5, b"x", ("x", 5), ["x", 5], {"x": "x"}])
def test_what_does_not(value):
    kind = type(value).__name__
    with pytest.raises(ValueError, match=f"^file, record 7: field 'b' is {kind}, not text; name another field"):
        with_texts({"a": "x", "b": value}, ("a", "b"), "file, record 7")
    with pytest.raises(ValueError, match=f"^here: field 'b' is {kind}, not text or a list of words; name another"):
        with_texts({"b": value}, ("b",), "here", words=True)
    for words in (False, True):
        with pytest.raises(ValueError, match="^here: no field 'text' among txt; did you mean 'txt'"):
            with_texts({"txt": value}, ("text",), "here", words)
