#!/usr/bin/env bash
# DebertaTokenizer of transformers encodes a pair of texts.
# A good guess: [CLS] A [SEP] B [SEP], as DeBERTa was trained and as DeBERTa-v2's tokenizer does.
# What happens: two separators stand between the texts, as in RoBERTa, so that a classifier of pairs sees another input
# than in its training.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import transformers

vocab = {token: number for number, token in enumerate(["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", "a", "b"])}
tokenizer = transformers.DebertaTokenizer(vocab=vocab, merges=[])
pair = tokenizer.convert_ids_to_tokens(tokenizer("a", "b")["input_ids"])
print(f"transformers {transformers.__version__}: {' '.join(pair)}")
assert pair == ["[CLS]", "a", "[SEP]", "[SEP]", "b", "[SEP]"], "the pair of DebertaTokenizer changed"
PYTHON
