"""What is printed: numbers in three digits, tables that fit the terminal, and everything that was asked for."""

import json

import pytest

from jaxencoder.describe.cost import Cost, CostLine, format_cost
from jaxencoder.describe.families import Entry, Size, format_families, format_family
from jaxencoder.describe.format import as_json, format_count, format_memory
from jaxencoder.describe.inspect import Inspection, LayerKind, MemoryUse, Parameter, format_inspection

SMALL = Size("someone/small", 2, 128, 512, 2, 30522, 512, 4_385_920, 4_385_920, 3_972_864)
KERNEL = Parameter("encoder/up/kernel", (4, 8, 32), 1024, MemoryUse(4096, 512), (None, "fsdp", "tensor"))
LARGE = Size("someone/large", 24, 1024, 4096, 16, 30522, 8192, 335_141_888, 335_141_888, 31_782_912)
ENTRY = Entry(
    model_type="newbert",
    title="NewBERT",
    choose_for="all that is new " * 9,
    architecture={"positions": "rotary positions", "attention": "global attention"},
    special=("rotary positions",),
    max_lengths=(512, 8192),
    tokenizer="WordPiece [cased]",
    objective="masked words",
    text="books",
    heads=("mlm_head", "pooler"),
    papers={"NewBERT": "2412.13663"},
    sizes=(SMALL, LARGE),
)
INSPECTION = Inspection(
    name="runs/x",
    kind="run",
    family=None,
    settings={"num_layers": 4, "windows": (0, 64), "dropout": 0.0},
    changed=("windows",),
    heads={"mlm_head": {}, "pooler": {"inputs": "cls", "outputs": 0}},
    tokenizer={"kind": "wordpiece", "vocab_size": 16384, "special": {"mask": "[MASK]"}},
    sentence={"pooling": ("mean", "max"), "normalize": True, "dimensions": None},
    parameters=(KERNEL,),
    parts={"embeddings": 0, "layers": 1024},
    active=1024,
    mesh={"data": 1, "fsdp": 4, "tensor": 2, "context": 1},
    memory={"parameters": MemoryUse(4096, 512), "gradients": MemoryUse(4096, 512), "optimizer": MemoryUse(8196, 1028)},
    optimizer="adamw",
    length=1024,
    flops={"encoder": 251_308_032.0, "mlm_head": 78_544_896.0},
    attention=(LayerKind(0, 2, "dense"), LayerKind(64, 2, "banded")),
    notes=("something is not known",),
)

LAYERS = (LayerKind(0, 2, "dense"), LayerKind(64, 3, "banded"), LayerKind(9, 1, "banded"))
COST = Cost(
    name="runs/x",
    kind="run",
    rows=4,
    mesh={"data": 1, "fsdp": 4, "tensor": 1, "context": 1},
    device="cpu",
    dtype="bfloat16",
    windows={"own": (0, 64), "global": (0,)},
    state=dict.fromkeys(("parameters", "gradients"), MemoryUse(2**22, 2**20)) | {"optimizer": MemoryUse(2**23, 2**21)},
    optimizer="adamw",
    lines=(
        CostLine("training", "own", 512, LAYERS, 512e6, None, 2**20, None),
        CostLine("training", "own", 2048, LAYERS, 4096e6, 1.5, 2**24, 2.0),
        CostLine("inference", "own", 512, LAYERS, 128e6, None, 2**10, None),
    ),
    notes=("something is not known",),
)


@pytest.fixture(autouse=True)
def _wide(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0K"), (999_949, "1.0M"), (109_482_240, "109M"), (2_107_590_912, "2.1B")],
)
def test_count(number: int, text: str) -> None:
    assert format_count(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(512, "512 B"), (1536, "1.5 KiB"), (437_928_960, "418 MiB"), (2**30, "1.0 GiB")]
)
def test_memory(number: int, text: str) -> None:
    assert format_memory(number) == text


def test_families_fit_the_terminal(monkeypatch) -> None:
    wide = format_families([ENTRY])
    assert "4.4M to 335M" in wide and "512 to 8,192" in wide and "WordPiece [cased]" in wide
    assert "global attention" not in wide  # as BERT
    monkeypatch.setenv("COLUMNS", "70")
    narrow = format_families([ENTRY])
    assert max(map(len, narrow.splitlines()[:-1])) <= 70 < max(map(len, wide.splitlines()))
    assert all(line == line.rstrip() for line in narrow.splitlines())


def test_family() -> None:
    text = format_family(ENTRY)
    for words in ("NewBERT (newbert)", "as in BERT     global attention", "arXiv:2412.13663 (NewBERT)", "24 x 1024"):
        assert words in text


def test_inspection() -> None:
    text = format_inspection(INSPECTION)
    for words in (
        "run, of no published family",
        "mlm_head; pooler (inputs cls)",
        "wordpiece, 16,384 tokens [MASK]",
        "pooling (mean, max), normalize True\n",
        "windows  (0, 64)",
        "4, 8, 32   1,024  4.0 KiB    512 B  P(-, fsdp, tensor)",
        "on each of 8 devices (data 1, fsdp 4, tensor 2, context 1)",
        "state of adamw",
        "64 tokens to either side",
        "2  banded",
        "251M",
        "Note: something is not known.",
    ):
        assert words in text, words
    assert "num_layers" not in text and "dropout" not in text
    assert "num_layers  4" in format_inspection(INSPECTION, every_setting=True)


def test_costs() -> None:
    text = format_cost(COST)
    for words in (
        "4 row(s), bfloat16, attention own (windows none, 64), global (no windows)",
        "cpu, mesh data 1, fsdp 4,",
        "on each device",
        "state of adamw                      2.0 MiB",
        "own           512  2 dense, 4 banded         512M     1.0M              1.0 MiB           5.0 MiB\n",
        "own         2,048  2 dense, 4 banded         4.1B     2.0M    1.50     16.0 MiB    2.00  20.0 MiB\n",
        "128M     250K              1.0 KiB          1.0 MiB\n",
        "Note: something is not known.",
    ):
        assert words in text, text
    assert text.index("training: forward and backward pass") < text.index("inference: the encoder's forward pass")


def test_json() -> None:
    assert json.loads(as_json(COST))["lines"][1]["activations_growth"] == 2.0
    assert json.loads(as_json([ENTRY]))[0]["sizes"][1]["parameters"] == 335_141_888
    actual = json.loads(as_json(INSPECTION))
    assert actual["parameters"][0]["spec"] == [None, "fsdp", "tensor"]
    assert actual["memory"]["optimizer"] == {"total": 8196, "device": 1028}
