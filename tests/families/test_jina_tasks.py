"""jina-embeddings-v3 and v5: adapters for tasks, chosen by the prompt's name, against transformers and PEFT."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints.weights import open_weights, save_weights
from jaxencoder.describe.inspect import inspect
from jaxencoder.evaluation.similarity import evaluate_similarity
from jaxencoder.families.jina_v3 import JINA_V3
from jaxencoder.families.jina_v5 import JINA_V5_NANO, JINA_V5_SMALL
from jaxencoder.families.published import parse_settings
from jaxencoder.files import read_json, write_json
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.inference.search import rank
from tests.families import peers
from tests.families.test_embedders import TEXTS, qwen_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")  # of the peers

FOLDERS = {
    "retrieval.query": "retrieval_query", "retrieval.passage": "retrieval_passage", "separation": "separation",
    "classification": "classification", "text-matching": "text_matching",
}  # fmt: skip
INSTRUCTIONS = dict.fromkeys(FOLDERS, "") | {"retrieval.query": "Represent the query: ", "retrieval.passage": "Text: "}
TABLES = ["word_embeddings", "token_type_embeddings"]
TARGETS = [*TABLES, "q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "dense"]
V5_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
V5_TASKS = ("retrieval", "text-matching", "clustering", "classification")
RETRIEVAL = ("retrieval.query", "retrieval.passage")


def saved_base(family: str, settings: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    """A torch model with a tokenizer, saved in a folder."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("peft")
    special = dict(eos_token="<|endoftext|>", pad_token="<|endoftext|>", cls_token="<cls>", sep_token="<sep>")
    special |= {"unk_token": "<unk>", "mask_token": "<mask>"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=qwen_tokenizer(), **special)
    fast.save_pretrained(folder)
    model = peers.torch_model(family, settings | {"vocab_size": len(fast), "pad_token_id": 0}, "Model")
    peers.saved(model, folder)
    return model, fast


def adapted(model: Any, targets: list[str], seed: int, rank: int = 4, folder: Path | None = None) -> Any:
    """A copy of a torch model with a random adapter, which is saved in a folder."""
    import peft
    import torch

    config = peft.LoraConfig(r=rank, lora_alpha=1, target_modules=targets)
    result = peft.get_peft_model(copy.deepcopy(model), config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in result.named_parameters():
            if "lora_" in name:
                weight.copy_(0.5 * torch.randn(weight.shape, generator=generator))
    if folder is not None:
        result.save_pretrained(folder)
    return result


def torch_vectors(model: Any, tokenizer: Any, texts: list[str], prompt: str = "", last: bool = False) -> np.ndarray:
    """The means of the tokens' vectors, or the last token's, scaled to length 1."""
    import torch

    rows = []
    for text in texts:
        with torch.no_grad():
            ids = torch.tensor([tokenizer(prompt + text)["input_ids"]])
            hidden = model(input_ids=ids).last_hidden_state[0]
        rows.append(torch.nn.functional.normalize(hidden[-1], dim=-1) if last else hidden.mean(0))
    return torch.stack(rows).numpy()


@pytest.fixture(scope="module", params=range(3))
def v3(request, tmp_path_factory) -> tuple[Path, Any, Any, dict[str, Any]]:
    """A folder as of jina-embeddings-v3-hf, its torch model, tokenizer and adapted models."""
    folder = tmp_path_factory.mktemp("v3")
    model, tokenizer = saved_base("jina_embeddings_v3", peers.MODELS["jina_embeddings_v3"][request.param], folder)
    config = read_json(folder / "config.json", dict)
    write_json(folder / "config.json", config | {"task_instructions": INSTRUCTIONS})
    models = {task: adapted(model, TARGETS, i, folder=folder / path) for i, (task, path) in enumerate(FOLDERS.items())}
    return folder, model, tokenizer, models


def test_the_prompts_name_chooses_the_adapter(v3, tmp_path: Path, caplog) -> None:
    folder, base, tokenizer, models = v3
    loaded = jaxencoder.load(folder, dtype="float32")
    assert loaded.published.family is JINA_V3 and dict(loaded.sentence.prompts) == INSTRUCTIONS
    loaded.save(tmp_path / "again")
    again = jaxencoder.load(tmp_path / "again", dtype="float32")
    assert not caplog.text
    for task, model in models.items():
        expected = torch_vectors(model, tokenizer, TEXTS, INSTRUCTIONS[task])
        np.testing.assert_allclose(loaded.embed(TEXTS, prompt=task), expected, atol=2e-5, err_msg=task)
        np.testing.assert_allclose(again.embed(TEXTS, prompt=task), expected, atol=2e-5, err_msg=task)
    expected = torch_vectors(base, tokenizer, TEXTS)
    for prompt in (None, "", None):
        np.testing.assert_allclose(loaded.embed(TEXTS, prompt=prompt), expected, atol=2e-5)
    assert caplog.text.count("Texts are embedded without an adapter for a task; give the name of a prompt: ") == 1


def test_adapters_are_written_for_peft(v3, tmp_path: Path) -> None:
    import peft
    import transformers

    folder, _, tokenizer, models = v3
    jaxencoder.load(folder).save(tmp_path)
    for task in RETRIEVAL:
        model = transformers.AutoModel.from_pretrained(tmp_path, attn_implementation="eager")
        model = peft.PeftModel.from_pretrained(model, str(tmp_path / FOLDERS[task])).eval()
        expected, got = (torch_vectors(x, tokenizer, TEXTS) for x in (models[task], model))
        np.testing.assert_allclose(got, expected, atol=1e-5)
    targets = read_json(tmp_path / "separation" / "adapter_config.json", dict)["target_modules"]
    assert sorted(targets) == sorted(["pooler.dense" if name == "dense" else name for name in TARGETS])


def published_code(folder: Path, base: Any, rank: int = 4) -> dict[str, Any]:
    """Make the folder one of the published code, and return its adapted torch models.

    There a fused matrix has one adapter, and the weights of all tasks are one tensor.
    """
    config = read_json(folder / "config.json", dict)
    tensors = dict(open_weights(folder))
    random = np.random.default_rng(0)
    draw = lambda *shape: random.normal(0, 0.5, shape).astype(np.float32)  # noqa: E731
    merged = [dict(tensors) for _ in FOLDERS]
    for name in [name for name in tensors if name.endswith("weight") and tensors[name].ndim == 2]:
        matrix, module = tensors.pop(name), name.removesuffix(".weight")
        rows, columns = matrix.shape
        if module.endswith("_embeddings"):
            a, b = draw(5, rows, rank), draw(5, rank, columns)
            products = a @ b
        else:
            a, b = draw(5, rank, columns), draw(5, rows, rank)
            products = b @ a
        tensors[f"roberta.{module}.parametrizations.weight.original"] = matrix
        tensors |= {f"roberta.{module}.parametrizations.weight.0.lora_{x}": y for x, y in (("A", a), ("B", b))}
        for number, product in enumerate(products):
            merged[number][name] = matrix + product / rank
    tensors = {name if name.startswith("roberta.") else f"roberta.{name}": x for name, x in tensors.items()}
    models = {}
    for task, weights in zip(FOLDERS, merged, strict=True):
        save_weights(weights, folder)
        models[task] = type(base).from_pretrained(folder, attn_implementation="eager").eval()
    save_weights(tensors, folder)
    code = "jinaai/xlm-roberta-flash-implementation--"
    changes = {
        "model_type": "xlm-roberta", "architectures": ["XLMRobertaLoRA"], "position_embedding_type": "rotary",
        "rotary_emb_base": 20_000.0, "lora_adaptations": list(FOLDERS), "lora_rank": rank, "lora_alpha": 1,
        "auto_map": {"AutoModel": f"{code}modeling_lora.XLMRobertaLoRA"}, "rope_parameters": None,
    }  # fmt: skip
    write_json(folder / "config.json", config | changes | {"task_instructions": INSTRUCTIONS, "truncate_dim": None})
    entries = [
        {"idx": 0, "name": "transformer", "path": "", "type": "custom_st.Transformer", "kwargs": ["task"]},
        {"idx": 1, "name": "pooler", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "normalizer", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    write_json(folder / "modules.json", entries)
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True})
    write_json(folder / "config_sentence_transformers.json", {"prompts": INSTRUCTIONS, "default_prompt_name": None})
    return models


def test_the_folder_of_the_published_code(tmp_path: Path, caplog) -> None:
    base, tokenizer = saved_base("jina_embeddings_v3", peers.MODELS["jina_embeddings_v3"][0], tmp_path / "code")
    models = published_code(tmp_path / "code", base)
    loaded = jaxencoder.load(tmp_path / "code", dtype="float32")
    loaded.save(tmp_path / "again", "sentence-transformers")
    assert "sentence-transformers itself applies no adapter for a task" in caplog.text
    assert "not used" not in caplog.text and "left out" not in caplog.text
    again = jaxencoder.load(tmp_path / "again", dtype="float32")
    config = read_json(tmp_path / "again" / "config.json", dict)
    assert config["model_type"] == "jina_embeddings_v3" and "auto_map" not in config
    for task, model in models.items():
        expected = torch_vectors(model, tokenizer, TEXTS, INSTRUCTIONS[task])
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(loaded.embed(TEXTS, prompt=task), expected, atol=1e-5, err_msg=task)
        np.testing.assert_allclose(again.embed(TEXTS, prompt=task), expected, atol=1e-5, err_msg=task)
    (note,) = inspect(str(tmp_path / "code")).notes
    assert note.startswith("adapters, not counted, for the tasks retrieval.query, retrieval.passage, separation")


def test_search_and_evaluation_by_prompt(v3, tmp_path: Path) -> None:
    folder, _, tokenizer, models = v3
    loaded = jaxencoder.load(folder, dtype="float32")
    queries, documents = (torch_vectors(models[task], tokenizer, TEXTS, INSTRUCTIONS[task]) for task in RETRIEVAL)
    queries, documents = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, documents))
    records = [{"text": text} for text in TEXTS]
    (chunk,) = rank(loaded, TEXTS, records, 4, options=EmbedOptions(prompt=RETRIEVAL[1]), query_prompt=RETRIEVAL[0])
    np.testing.assert_allclose(chunk[1].scores, -np.sort(-queries @ documents.T, axis=1), atol=1e-5)
    pairs = [{"sentence1": TEXTS[i], "sentence2": TEXTS[i - 1], "score": i} for i in range(4)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    results = [
        evaluate_similarity(loaded, [str(tmp_path / "pairs.jsonl")], options=EmbedOptions(prompt=task))["pearson"]
        for task in ("text-matching", "separation")
    ]
    assert results[0] != results[1]


def v5_folder(family: str, folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    settings = dict(peers.MODELS[family][0]) | ({"is_causal": True} if family == "qwen3" else {})
    model, tokenizer = saved_base(family, settings, folder)
    config = read_json(folder / "config.json", dict)
    config |= {"model_type": "jina_embeddings_v5", "architectures": ["JinaEmbeddingsV5Model"]}
    config |= {"task_names": list(V5_TASKS)} | ({"is_decoder": False} if family == "eurobert" else {})
    write_json(folder / "config.json", config)
    paths = {task: folder / "adapters" / task for task in V5_TASKS}
    models = {task: adapted(model, V5_TARGETS, i, folder=path) for i, (task, path) in enumerate(paths.items())}
    entry = {"idx": 0, "name": "transformer", "path": "", "type": "custom_st.Transformer", "kwargs": ["task"]}
    write_json(folder / "modules.json", [entry])
    prompts = {"query": "Query: ", "document": "Document: "}
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "similarity_fn_name": "cosine"})
    return model, tokenizer, models


@pytest.mark.parametrize(
    ("body", "family"), [("eurobert", JINA_V5_NANO), ("qwen3", JINA_V5_SMALL)], ids=["nano", "small"]
)
def test_v5(body: str, family: Any, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    _, tokenizer, models = v5_folder(body, folder)
    loaded = jaxencoder.load(folder, dtype="float32")
    assert loaded.published.family is family
    loaded.save(tmp_path / "again")
    again = jaxencoder.load(tmp_path / "again", dtype="float32")
    chosen = {"query": ("retrieval", "Query: "), "document": ("retrieval", "Document: ")}
    chosen |= {task: (task, "Document: ") for task in V5_TASKS[1:]}
    for prompt, (task, text) in chosen.items():
        expected = torch_vectors(models[task], tokenizer, TEXTS, text, last=True)
        for model in (loaded, again):
            np.testing.assert_allclose(model.embed(TEXTS, prompt=prompt), expected, atol=1e-5, err_msg=prompt)
    for prompt in (None, "", "A text of its own: "):
        with pytest.raises(
            ValueError, match="embeds texts for a task only; give the name of a prompt: query, document, "
        ):
            loaded.embed(TEXTS, prompt=prompt)
    (chunk,) = rank(loaded, TEXTS, [{"text": text} for text in TEXTS], 1)  # by the prompts query and document
    queries, documents = (loaded.embed(TEXTS, prompt=prompt) for prompt in ("query", "document"))
    np.testing.assert_allclose(chunk[1].scores[:, 0], (queries @ documents.T).max(1), atol=1e-5)
    assert inspect(str(folder)).notes[0].startswith("adapters, not counted, for the tasks retrieval, text-matching")
    config = read_json(tmp_path / "again" / "config.json", dict)
    with pytest.raises(ValueError, match=r"has task_names \['../x'\]; a list of names is needed"):
        family.tasks.prompts(config | {"task_names": ["../x"]})
    assert config["model_type"] == "jina_embeddings_v5" and config["architectures"] == ["JinaEmbeddingsV5Model"]
    assert parse_settings(config, "again")[1] == loaded.config.model
    for task in V5_TASKS:
        (folder / "adapters" / task / "adapter_config.json").unlink()
    with pytest.raises(
        ValueError, match="embeds nothing without the adapters for its tasks; add their folders, such as"
    ):
        jaxencoder.load(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_adaptations": "all"}, "has lora_adaptations 'all'; a list of names is needed"),
        ({"lora_adaptations": ["a", "b"]}, "has adapters for 5 tasks, but config.json has 2 lora_adaptations: a, b"),
        ({"task_instructions": ["a"]}, r"has task_instructions \['a'\]; a text for each task is needed"),
        ({"lora_rank": 3}, "has 4 ranks for .*, but r asks for 3; correct one of them"),
        ({"emb_pooler": "cls"}, "has emb_pooler 'cls'; only None can be loaded"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    base, _ = saved_base("jina_embeddings_v3", peers.MODELS["jina_embeddings_v3"][0], tmp_path)
    published_code(tmp_path, base)
    write_json(tmp_path / "config.json", read_json(tmp_path / "config.json", dict) | settings)
    with pytest.raises(ValueError, match=message) as error:
        jaxencoder.load(tmp_path)
    assert "\n" not in str(error.value)


def test_the_base_of_the_published_code_has_its_own_default(tmp_path: Path) -> None:
    config = dict(peers.MODELS["jina_embeddings_v3"][0], model_type="xlm-roberta", position_embedding_type="rotary")
    assert parse_settings(config, "folder")[1].rope_theta == 10_000
    assert parse_settings(config | {"rotary_emb_base": 7}, "folder")[1].rope_theta == 7
    assert parse_settings(config | {"model_type": "jina_embeddings_v3"}, "folder")[1].rope_theta == 20_000
