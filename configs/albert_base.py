"""ALBERT-base: twelve layers with shared parameters, masked n-grams, and sentence order instead of NSP.

Paper: Lan et al. 2020, arXiv:1909.11942: 125k steps of 4,096 rows of 512 tokens, LAMB at 1.76e-3 with 3,125 steps of
warmup, masked n-grams of up to three words, embeddings of size 128; no dropout, as in its second version.
11.7M parameters, at the cost per step of BERT-base.

Cost: 125k steps x 4,096 rows x 512 tokens = 262B tokens, 1.5e20 FLOPs: 13 hours on 8 H100 at 40% of their peak.
Expected: the published second version has MNLI 84.6, SST-2 92.9 (dev).

Run: jaxencoder train albert_base --data.train gs://BUCKET/text/*.jsonl.zst --mesh.data 8 --training.accumulation 16

Status: the model is checked against the reference implementation, and the recipe takes its first steps on a CPU. The
complete run has not been done: the expected scores are the published ones, not ours.
"""

from jaxencoder.config import (
    ComputeConfig,
    DataConfig,
    EncoderConfig,
    MaskedLM,
    Masking,
    OptimizerConfig,
    RunConfig,
    TokenizerConfig,
    TrainingConfig,
)


def get_config() -> RunConfig:
    return RunConfig(
        model=EncoderConfig(
            num_layer_groups=1, embedding_size=128, activation="gelu_tanh", dropout=0.0, attention_dropout=0.0
        ),
        compute=ComputeConfig(dtype="bfloat16"),
        objective=MaskedLM(Masking(whole_words=True, spans="ngram", max_span_length=3), pairs=True),
        tokenizer=TokenizerConfig(kind="sentencepiece-unigram", vocab_size=30_000, lowercase=True),
        data=DataConfig(
            train=("tfds:wikipedia/20230601.en:train",), pairs="sop", validation_fraction=0.001, row_length=512
        ),
        optimizer=OptimizerConfig(name="lamb", learning_rate=1.76e-3, b2=0.999, eps=1e-6, warmup_ratio=0.025),
        training=TrainingConfig(
            steps=125_000, batch_size=4096, log_every=50, eval_every=2_500, eval_batches=16, checkpoint_every=2_500
        ),
    )
