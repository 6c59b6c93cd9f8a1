"""The running interpreter's own documentation as a corpus: about 2 MB of English that every machine already has.

Source: the topics behind `help("TOPIC")` (pydoc_data) and the docstrings of the standard library, read with ast from
its source files, so that no module is imported and nothing runs. Python's documentation is under the PSF licence.
"""

import ast
import functools
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

# Tests are not documentation, and distributions leave them out: without them two machines agree more closely.
_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "pydoc_data"}
_RULER = re.compile(r"^\s*([*=\-~^\"#+.])\1{2,}\s*$", re.MULTILINE)
_ROLE = re.compile(r":[a-z]+(?::[a-z]+)?:`~?([^`<]+?)(?:\s*<[^`]*>)?`")
_LEAST_WORDS = 3


@functools.cache
def documents() -> tuple[tuple[str, str], ...]:
    """Every document once, in the order of its source file: (name, text).

    Returns:
        Pairs such as ("textwrap.dedent", "Remove any common leading ...") and ("topic lists", "List displays ...").

    Raises:
        ValueError: this interpreter came without the sources of its standard library.
    """
    seen, found = set(), []
    for name, raw in (*_topics(), *_docstrings()):
        text = clean(raw)
        if len(text.split()) >= _LEAST_WORDS and text not in seen:
            seen.add(text)
            found.append((name, text))
    if not found:
        raise ValueError(f"pydocs: {_library()} holds no Python source to read documentation from; name another source")
    return tuple(found)


def clean(text: str) -> str:
    """Plain prose out of a docstring: no doctests, rulers or roles, and one line per paragraph.

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
    except ImportError:  # some small distributions leave the topics out; the docstrings are four fifths of the text
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
            yield from _of(tree, name)


def _of(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """The docstring of a module, class or function, then those inside it, in the order they are written."""
    text = ast.get_docstring(node)
    if text:
        yield name, text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _of(child, f"{name}.{child.name}")
