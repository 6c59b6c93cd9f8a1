"""Models as programs that jax runs without this package, and that compilers for accelerators accept."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding
from safetensors.numpy import load_file

from benchmarks.accelerators import devices
from jaxencoder.export.stablehlo_folder import export_stablehlo
from jaxencoder.inference.model import OpenedModel
from jaxencoder.model.sentence import SentenceConfig
from tests.devices import environment
from tests.inference.conftest import SENTENCES

pytest.importorskip("flatbuffers")

TEXTS = [SENTENCES[0], *SENTENCES[60:64]]
WITHOUT_THE_PACKAGE = """
import json, sys
sys.modules["jaxencoder"] = None
from pathlib import Path
import jax.export
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

folder, texts = Path(sys.argv[1]), sys.argv[2:]
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.enable_padding()
encodings = tokenizer.encode_batch(texts)
inputs = {
    "input_ids": np.array([x.ids for x in encodings], np.int32),
    "attention_mask": np.array([x.attention_mask for x in encodings], np.int32),
    "token_type_ids": np.array([x.type_ids for x in encodings], np.int32),
}
program = jax.export.deserialize(bytearray((folder / "stablehlo/program.bin").read_bytes()))
names = json.loads((folder / "stablehlo/program.json").read_text())["inputs"]
outputs = program.call(load_file(folder / "stablehlo/model.safetensors"), {name: inputs[name] for name in names})
print(json.dumps(np.asarray(outputs["sentence_embedding"]).tolist()))
"""


@pytest.fixture
def embedder(make_model) -> OpenedModel:
    return dataclasses.replace(make_model(), sentence=SentenceConfig(normalize=True))


def test_runs_without_this_package(embedder: OpenedModel, tmp_path: Path) -> None:
    exported = export_stablehlo(embedder, tmp_path / "new")
    assert exported.file == tmp_path / "new" / "stablehlo" / "program.bin" and exported.task == "feature-extraction"
    command = [sys.executable, "-c", WITHOUT_THE_PACKAGE, str(tmp_path / "new"), *TEXTS]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert not done.returncode, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), embedder.embed(TEXTS), atol=1e-5)


def test_settings_name_what_a_reader_needs(embedder: OpenedModel, tmp_path: Path) -> None:
    file = export_stablehlo(embedder, tmp_path / "new").file
    settings = json.loads(file.with_name("program.json").read_text())
    assert settings["outputs"] == ["last_hidden_state", "sentence_embedding"]
    assert settings["inputs"]["input_ids"] == ["B", "T"] and settings["max_length"] == 64
    assert settings["platforms"] == ["cpu", "cuda", "rocm", "tpu"] and settings["jax"] == jax.__version__


def test_the_compiler_of_tpus_accepts_the_program(embedder: OpenedModel, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("libtpu", reason="needs the compiler of TPUs: pip install 'jax[tpu]'")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU to ask
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    file = export_stablehlo(embedder, tmp_path / "new", "bfloat16").file
    program = jax.export.deserialize(bytearray(file.read_bytes()))
    chip = SingleDeviceSharding(devices("v5e:2x2")[0])
    shapes = {name: (x.shape, x.dtype) for name, x in load_file(file.with_name("model.safetensors")).items()}
    inputs = dict.fromkeys(json.loads(file.with_name("program.json").read_text())["inputs"], ((4, 32), np.int32))
    arguments = [{k: jax.ShapeDtypeStruct(*v, sharding=chip) for k, v in tree.items()} for tree in (shapes, inputs)]
    assert jax.jit(program.call).lower(*arguments).compile().memory_analysis().output_size_in_bytes > 4 * 32 * 32 * 4


def test_bfloat16(embedder: OpenedModel, tmp_path: Path) -> None:
    file = export_stablehlo(embedder, tmp_path / "new", "bfloat16").file
    params = load_file(file.with_name("model.safetensors"))
    dtypes = {name.split("/")[-1]: x.dtype for name, x in params.items() if name.startswith("encoder/layers")}
    assert dtypes["kernel"] == ml_dtypes.bfloat16 and dtypes["bias"] == np.float32
    program = jax.export.deserialize(bytearray(file.read_bytes()))
    ids = embedder.tokenizer.encode_batch(TEXTS[:1])[0].ids[None].astype(np.int32)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    names = json.loads(file.with_name("program.json").read_text())["inputs"]
    vector = program.call(params, {name: inputs[name] for name in names})
    cosine = float((np.asarray(vector["sentence_embedding"]) * embedder.embed(TEXTS[:1])).sum())
    assert 0.99 < cosine < 1 - 1e-7
    with pytest.raises(ValueError, match="precision is 'int8'; give float32 or bfloat16"):
        export_stablehlo(embedder, tmp_path / "other", "int8")
