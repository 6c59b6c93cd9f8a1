"""The adapter in MTEB itself, and the commands of evaluation beside MTEB's tasks on the same records."""

import dataclasses
import itertools
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import jaxencoder
from jaxencoder.evaluation.evaluate import evaluate_task
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.mteb import Encoder
from tests.tasks.conftest import home, masked  # noqa: F401

mteb = pytest.importorskip("mteb", reason="mteb is not installed", exc_type=ImportError)
datasets = pytest.importorskip("datasets")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of tasks without a publication
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
WORDS = {"good": ("lovely", "great", "fine"), "bad": ("awful", "poor", "sad"), "neutral": ("film", "plot", "cast")}
CASES = {
    "Classification": ("classification", "accuracy", ("accuracy", "f1")),
    "Clustering": ("clustering", "v_measure", ("v_measure",)),
    "PairClassification": ("pair_classification", "max_ap", ("ap", "f1", "precision", "recall", "accuracy")),
    "BitextMining": ("bitext", "f1", ("f1", "precision", "recall", "accuracy")),
}


def records(kind: str, count: int, seed: int) -> list[dict[str, Any]]:
    random, rows = np.random.default_rng(seed), []
    for _ in range(count):
        label = str(random.choice(list(WORDS)))
        text = " ".join(random.choice([*WORDS[label], "the", "a", "was"], 5))
        if kind in ("Classification", "Clustering"):
            rows.append({"text": text, "label": label})
        else:
            other = " ".join(random.permutation(text.split())[:4])
            rows.append({"sentence1": text, "sentence2": other, "labels": int(label == "good")})
    return rows


def task(kind: str, parts: dict[str, list[dict[str, Any]]]) -> Any:
    """A task of MTEB on these records."""
    bases = {"Clustering": "clustering", "Classification": "classification"}
    bases |= {"PairClassification": "pair_classification", "BitextMining": "text.bitext_mining"}
    base = getattr(pytest.importorskip(f"mteb.abstasks.{bases[kind]}"), f"AbsTask{kind}")
    metadata = mteb.abstasks.task_metadata.TaskMetadata(
        name=f"Local{kind}", type=kind, description="local", reference=None, main_score=CASES[kind][1],
        dataset={"path": "local", "revision": "1"}, category="t2t", modalities=["text"], eval_splits=["test"],
        eval_langs=["eng-Latn"], date=None, domains=None, task_subtypes=None, license=None, annotations_creators=None,
        dialect=None, sample_creation=None, bibtex_citation=None,
    )  # fmt: skip
    own = {"metadata": metadata, "input_column_name": "text", "label_column_name": "label"}
    own |= {"max_fraction_of_documents_to_embed": None, "max_documents_per_cluster": 200}
    own = own if kind in ("Clustering", "Classification") else {"metadata": metadata}
    made = type(f"Local{kind}", (base,), own)()
    made.dataset = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in parts.items()})
    made.data_loaded = True
    return made


@pytest.mark.parametrize("kind", CASES)
def test_commands_give_the_scores_of_mteb(masked, kind, tmp_path):  # noqa: F811
    parts = {"train": records(kind, 90, 0), "test": records(kind, 60, 1)}
    files = {name: tmp_path / f"{name}.jsonl" for name in parts}
    for name, file in files.items():
        file.write_text("".join(json.dumps(record) + "\n" for record in parts[name]))
    name, _, metrics = CASES[kind]
    options = {"classification": {"train": str(files["train"])}, "clustering": {"samples": 200}}.get(name, {})
    result = evaluate_task(masked.folder, name, [str(files["test"])], tmp_path / "r.json", **options)
    encoder = Encoder(masked.folder)
    scores = mteb.evaluate(encoder, task(kind, parts), cache=None, show_progress_bar=False)[0].scores["test"][0]
    prefix = "cosine_" if kind == "PairClassification" else ""
    expected = {metric: scores[prefix + metric] for metric in metrics}
    actual = result[str(files["test"])]
    assert {metric: actual[metric] for metric in metrics} == pytest.approx(expected, abs=1e-6)
    assert kind == "BitextMining" or 0 < actual[metrics[0]] < 1


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of names in sentence-transformers
def test_retrieval_equals_that_of_sentence_transformers(masked, tmp_path):  # noqa: F811
    library = pytest.importorskip("sentence_transformers")
    mocks = pytest.importorskip("mteb.mocks")
    model = jaxencoder.load(masked.folder)
    prompts = (("query", "the cast : "), ("document", ""), ("STS", "a plot : "))
    model = dataclasses.replace(model, sentence=dataclasses.replace(model.sentence, prompts=prompts))
    model.save(tmp_path / "st", format="sentence-transformers")
    theirs = library.SentenceTransformer(str(tmp_path / "st"), device="cpu")
    for made in (mocks.MockRetrievalTask(), mocks.MockSTSTask(), mocks.MockSummarizationTask()):
        encoders = Encoder(tmp_path / "st"), theirs
        runs = [mteb.evaluate(encoder, made, cache=None, show_progress_bar=False)[0] for encoder in encoders]
        ours, expected = ({k: v for k, v in run.scores["test"][0].items() if isinstance(v, float)} for run in runs)
        assert ours == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_prompts_are_chosen_as_mteb_does(masked):  # noqa: F811
    module = pytest.importorskip("mteb.models.abs_encoder")
    encoder = Encoder(masked.folder)
    names = ("SciFact-query", "SciFact", "Retrieval-query", "Retrieval", "query", "document", "STS")
    metadata: Any = SimpleNamespace(name="SciFact", type="Retrieval")
    for chosen in itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(len(names))):
        encoder._prompts = {name: f"{name}: " for name in chosen}
        for kind in (None, *mteb.types.PromptType):
            expected = module.get_prompt_name(encoder._prompts, metadata, kind)
            actual = encoder.prompt("SciFact", "Retrieval", kind and kind.value)
            assert (actual or None) == (None if expected is None else f"{expected}: ")


def test_metadata(masked):  # noqa: F811
    encoder = Encoder(masked.folder)
    meta = encoder.mteb_model_meta
    assert (meta.name, meta.embed_dim, meta.max_tokens) == ("jaxencoder/masked", 32, 32)
    assert isinstance(encoder, mteb.models.EncoderProtocol)
    model = jaxencoder.load(masked.folder)
    assert Encoder(model).mteb_model_meta.revision == meta.revision
    changed = [Encoder(model, options=EmbedOptions(dimensions=8)), Encoder(model, prompts={"query": "q: "})]
    table = model.params["encoder"] | {"norm": {"scale": np.ones(3)}}
    changed.append(Encoder(dataclasses.replace(model, params=model.params | {"encoder": table})))
    assert len({meta.revision, *(x.mteb_model_meta.revision for x in changed)}) == 4
    assert changed[0].mteb_model_meta.embed_dim == 8 and changed[1].mteb_model_meta.use_instructions


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities(masked, name):  # noqa: F811
    torch = pytest.importorskip("torch")
    model = jaxencoder.load(masked.folder)
    encoder = Encoder(dataclasses.replace(model, sentence=dataclasses.replace(model.sentence, similarity=name)))
    functions = pytest.importorskip("sentence_transformers").SimilarityFunction
    a, b = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    expected = functions.to_similarity_fn(name)(torch.tensor(a), torch.tensor(b[:3]))
    torch.testing.assert_close(encoder.similarity(torch.tensor(a), b[:3]), expected, atol=1e-6, rtol=1e-6)
    expected = functions.to_similarity_pairwise_fn(name)(torch.tensor(a), torch.tensor(b))
    torch.testing.assert_close(encoder.similarity_pairwise(a, torch.tensor(b)), expected, atol=1e-6, rtol=1e-6)
    assert encoder.similarity(a[0], b[0]).shape == (1, 1)


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        ({"text": ["a"]}, {"precision": "int8"}, "precision is 'int8', but vectors are float32"),
        ({"text": ["a"]}, {"normalize_embeddings": True}, "normalize_embeddings=True is not an option"),
        ({"image": [0], "text": ["a"]}, {}, "Local has inputs of image; this encoder embeds texts alone"),
        ({"id": [0]}, {}, "Local has inputs of no text"),
    ],
)
def test_what_it_cannot_encode(masked, batch, options, message):  # noqa: F811
    metadata = SimpleNamespace(name="Local", type="STS")
    with pytest.raises(ValueError, match=message):
        Encoder(masked.folder).encode([batch], task_metadata=metadata, **options)
