"""Parts of error messages."""

import difflib
from collections.abc import Iterable


def listed(names: Iterable[str]) -> str:
    """Join names with commas; "none" if there are no names."""
    return ", ".join(names) or "none"


def closest(name: str, names: Iterable[str]) -> str:
    """Suggest the most similar name, as the end of a message; empty if none is similar."""
    near = difflib.get_close_matches(name, [str(n) for n in names], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def first_line(error: BaseException) -> str:
    """The first line of a library's message, which may run to pages."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300].rstrip(" .;:")
