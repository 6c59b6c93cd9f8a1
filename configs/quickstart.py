"""A complete pretraining in minutes on two CPU cores, without downloads: a small encoder of Python's documentation.

The data is `pydocs`, the running interpreter's own documentation: about 2 MB of English on every machine. The model is
a very small BERT (Devlin et al. 2019, arXiv:1810.04805): 2 layers of 192, a vocabulary of 4,096 word pieces. Muon
(Jordan 2024) trains the matrices: in such short runs it needs far fewer steps than AdamW to leave the plateau of word
frequencies.

Cost: 900 steps x 32 rows x 64 tokens = 1.8M tokens, about 2 minutes on 2 CPU cores.
Expected: a held-out loss well below the unigram baseline that the run prints; docs/results.md has the measured ones.

Run: make quickstart
     or, for this stage alone: jaxencoder train configs/quickstart.py --training.steps 200
"""

from jaxencoder.config import (
    ComputeConfig,
    DataConfig,
    EncoderConfig,
    MaskedLM,
    OptimizerConfig,
    RunConfig,
    TokenizerConfig,
    TrainingConfig,
)


def get_config() -> RunConfig:
    return RunConfig(
        model=EncoderConfig(
            num_layers=2,
            hidden_size=192,
            mlp_size=768,
            num_heads=3,
            max_length=64,
            dropout=0.0,
            attention_dropout=0.0,
        ),
        compute=ComputeConfig(dtype="float32"),
        objective=MaskedLM(),
        tokenizer=TokenizerConfig(kind="wordpiece", vocab_size=4096),
        data=DataConfig(train=("pydocs",), validation_fraction=0.05, row_length=64),
        optimizer=OptimizerConfig(
            name="muon", learning_rate=3e-3, weight_decay=0.01, schedule="wsd", warmup_ratio=0.05, decay_ratio=0.3
        ),
        training=TrainingConfig(
            steps=900, batch_size=32, log_every=20, eval_every=300, eval_batches=0, checkpoint_every=300
        ),
    )
