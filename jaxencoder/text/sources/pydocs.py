"""The running interpreter's documentation as a corpus: about 2 MB of English on every machine.

The topics of `help("TOPIC")` (pydoc_data) and the docstrings of the standard library, which ast reads from the source
files so that no module is imported. Python's documentation is under the PSF license.
"""

import ast
import functools
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

# Tests are not documentation, and some distributions omit them: without them machines agree more closely.
_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "pydoc_data"}
_RULER = re.compile(r"^\s*([*=\-~^\"#+.])\1{2,}\s*$", re.MULTILINE)
_ROLE = re.compile(r":[a-z]+(?::[a-z]+)?:`~?([^`<]+?)(?:\s*<[^`]*>)?`")
_MIN_WORDS = 3
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def documents() -> tuple[tuple[str, str], ...]:
    """(name, text) of every distinct document, ordered by source file.

    ("topic lists", "List displays ...") and ("textwrap.dedent", "Remove any common leading ...") are two of them.
    ValueError if the sources of the standard library are not installed.
    """
    seen, documents = set(), []
    for name, raw in (*_topics(), *_docstrings()):
        text = clean(raw)
        if len(text.split()) >= _MIN_WORDS and text not in seen:
            seen.add(text)
            documents.append((name, text))
    if not documents:
        raise ValueError(f"pydocs: {_library()} holds no Python source to read documentation from; name another source")
    return tuple(documents)


def clean(text: str) -> str:
    """Reduce a docstring to plain prose: no doctests, rulers or roles, and one line per paragraph.

    >>> clean("Join :func:`a`\\n    and b.\\n\\n>>> a()\\n1\\n\\n=====\\nAnd more.")
    'Join a and b.\\nAnd more.'
    """
    text = _ROLE.sub(r"\1", _RULER.sub("", text))
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return "\n".join(part for part in paragraphs if part and not part.startswith(">>>"))


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _topics() -> Iterator[tuple[str, str]]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # omitted by some small distributions; the docstrings are four fifths of the text
        return
    yield from ((f"topic {name}", text) for name, text in sorted(topics.items()))


def _docstrings() -> Iterator[tuple[str, str]]:
    root = _library()
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if _SKIPPED_FOLDERS.isdisjoint(parts):
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            with warnings.catch_warnings(action="ignore"):  # old escapes in other people's source
                try:
                    tree = ast.parse(path.read_bytes())
                except (SyntaxError, ValueError):  # templates and deliberately broken examples
                    continue
            yield from _docstrings_in(tree, name)


def _docstrings_in(node: _Documented, name: str) -> Iterator[tuple[str, str]]:
    """The docstring of a module, class or function, then those inside it, in source order."""
    if text := ast.get_docstring(node):
        yield name, text
    for child in node.body:
        if isinstance(child, _Documented):
            yield from _docstrings_in(child, f"{name}.{child.name}")
