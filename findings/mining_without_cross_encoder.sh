#!/usr/bin/env bash
# mine_hard_negatives of sentence-transformers gets a cross-encoder, and no margin or limit of scores.
# A good guess: the cross-encoder scores the candidates, which chooses the negatives, and output_scores are its scores.
# What happens: it is not run at all. The negatives and the scores are those of the embedding model, without a word. With
# any limit, even one that leaves out nothing, the cross-encoder decides. Scores mined for distillation are then cosines.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
install() { "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install torch==2.13.0
install sentence-transformers==6.2.0 transformers==5.24.0 datasets==4.4.1 "numpy>=2"
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import datasets
import sentence_transformers
import torch
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.util import mine_hard_negatives
from tokenizers import Tokenizer, models, pre_tokenizers

datasets.disable_progress_bars()
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]
tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
torch.manual_seed(0)
embedding = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=torch.randn(len(words), 8))])

sizes = dict(vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, num_labels=1)).save_pretrained(sys.argv[1])
special = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(sys.argv[1])
reranker = CrossEncoder(sys.argv[1])

pairs = datasets.Dataset.from_dict({"query": ["a", "b", "c", "d"], "answer": ["e", "f", "g", "h"]})


def mined(**options):
    return mine_hard_negatives(
        pairs, embedding, num_negatives=2, range_max=3, output_format="n-tuple", output_scores=True, verbose=False, **options
    ).to_dict()


alone, given, limited = mined(), mined(cross_encoder=reranker), mined(cross_encoder=reranker, min_score=-1e9)
print(f"sentence-transformers {sentence_transformers.__version__}: with a cross-encoder the records are", end=" ")
print("those without it" if given == alone else "others", "and with a limit too", "those" if limited == alone else "others")
assert given == alone, "a cross-encoder without limits is used now"
assert limited != alone, "a cross-encoder with a limit is not used"
PYTHON
