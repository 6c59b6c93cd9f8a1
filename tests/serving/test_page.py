"""The page for browsers, in a headless Chromium."""

import itertools
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def page(address) -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.failures = []
        page.on("pageerror", lambda error: page.failures.append(str(error)))
        page.goto(address)
        page.wait_for_function("document.querySelector('#about').textContent")
        yield page
        assert not page.failures
        browser.close()


def choose(page, model: str) -> None:
    page.select_option("#model", model)
    page.wait_for_function("name => info.model_id === name && info.kind", arg=model)


def click(page, tool: str) -> Any:
    """The result of a tool."""
    page.eval_on_selector(f"#{tool} .result", "node => node.replaceChildren()")
    page.click(f"#{tool} button")
    page.wait_for_selector(f"#{tool} .result > *")
    return page.locator(f"#{tool} .result")


def test_similarity(page, models):
    choose(page, "embedding")
    sentences = ["the cat", "bread and rome", "a mat"]
    page.fill("#similarity textarea", "\n".join(sentences))
    cells = click(page, "similarity").locator("td").all_inner_texts()
    vectors = models["embedding"].embed(sentences, prompt="", normalize=True)
    rows = [
        [f"{i}. {text}", *(f"{x:.2f}" for x in row)]
        for i, text, row in zip(range(1, 4), sentences, vectors @ vectors.T, strict=True)
    ]
    assert cells == ["", *itertools.chain(*rows)]


@pytest.mark.parametrize("model", ["embedding", "reranker", "multi_vector"])
def test_search(page, model):
    choose(page, model)
    page.fill("#search input", "the cat")
    page.fill("#search textarea", "a mat\nthe cat\n\n<b>bread</b>")
    rows = click(page, "search").locator("tr").all_inner_texts()
    scores = [float(row.split()[0]) for row in rows]
    assert len(rows) == 3 and scores == sorted(scores, reverse=True)
    assert any("<b>bread</b>" in row for row in rows)  # as text
    assert model != "embedding" or "the cat" in rows[0]


@pytest.mark.parametrize("model", ["classifier", "tagger"])
def test_predictions(page, model, models):
    choose(page, model)
    page.fill("#classes textarea", "the cat sat")
    (row,) = click(page, "classes").locator("tr").all_inner_texts()
    assert row.startswith("the cat sat")
    if model == "classifier":
        (expected,) = models[model].classify(["the cat sat"])
        assert f"{expected.prediction} {expected.probability:.3f}" in row


def test_masks(page, models):
    choose(page, "embedding")
    assert page.input_value("#masks input") == "The capital of France is [MASK]."
    page.fill("#masks input", "the [MASK] sat")
    rows = click(page, "masks").locator("tr").all_inner_texts()
    ((best, *_),) = models["embedding"].fill_mask("the [MASK] sat", 5)
    assert len(rows) == 5 and best.sentence in rows[0]


def test_tokens(page, models):
    choose(page, "embedding")
    page.fill("#tokens input", "the cat")
    shown = click(page, "tokens").locator("small").all_inner_texts()
    assert shown == [str(i) for i in models["embedding"].tokenize(["the cat"])[0]]


def test_an_error_is_shown(page):
    choose(page, "embedding")
    page.fill("#masks input", "no mask")
    assert "has no mask to fill" in click(page, "masks").inner_text()


def test_tools_of_other_models_are_hidden(page):
    choose(page, "classifier")
    assert page.is_visible("#classes") and not page.is_visible("#similarity") and page.is_visible("#tokens")
