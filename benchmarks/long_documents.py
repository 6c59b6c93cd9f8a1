"""Peak memory of reading texts of 100,000 and of a million tokens in windows, each in its own process.

The encoder is random and has one layer: tokens, windows and vectors grow with the text, activations do not.

Run: python benchmarks/long_documents.py TOKENIZER    (a folder or file)
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

WORDS = "The cat sat on a mat while seven old men walked slowly through Paris and Rome looking for bread. "
METHODS = ("nothing", "embed", "token_chunks")


def measure(tokenizer: Path, method: str, tokens: int) -> None:
    """Print the peak resident set size of this process in MiB and the seconds for the text."""
    import jax
    import numpy as np

    from jaxencoder.api import Model
    from jaxencoder.config import RunConfig
    from jaxencoder.model.config import ComputeConfig, EncoderConfig
    from jaxencoder.objectives.mlm import MaskedLM
    from jaxencoder.text.config import DataConfig, WindowConfig
    from jaxencoder.text.tokenizers.tokenizer import Tokenizer

    words = Tokenizer.load(tokenizer)
    shape = EncoderConfig(
        vocab_size=words.vocab_size, num_layers=1, hidden_size=64, mlp_size=64, num_heads=2, max_length=256
    )
    compute = ComputeConfig(dtype="float32")
    shapes = jax.eval_shape(MaskedLM().build(shape, compute, words).init, jax.random.key(0))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda x: random.normal(0, 0.1, x.shape).astype(np.float32), shapes)
    model = Model(RunConfig(model=shape, data=DataConfig(row_length=256)), params, words, compute=compute)
    model.embed([WORDS * 100], windows=WindowConfig())  # compile
    for _ in model.token_chunks([WORDS * 100]):
        pass
    one, many = (len(words.encode_ids([WORDS * times])[0]) for times in (1, 101))
    sentence = (many - one) / 100  # tokens of one sentence
    times = round(tokens / sentence)
    text, start = WORDS * times, time.monotonic()
    if method == "embed" and not np.isfinite(model.embed([text], windows=WindowConfig())).all():
        raise SystemExit("embed gives numbers that are not finite")
    if method == "token_chunks":
        seen = sum(len(chunk.hidden) for chunk in model.token_chunks([text]))
        if abs(seen - times * sentence) > sentence:
            raise SystemExit(f"token_chunks gives {seen} tokens for a text of about {times * sentence:.0f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| {method} | {tokens:,} | {peak:,.0f} | {time.monotonic() - start:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(args.tokenizer, args.one[0], int(args.one[1]))
        return
    print("| method | tokens | peak MiB | seconds |\n|---|---:|---:|---:|", flush=True)
    for method in METHODS:
        for tokens in (100_000, 1_000_000):
            subprocess.run([sys.executable, __file__, args.tokenizer, "--one", method, str(tokens)], check=True)


if __name__ == "__main__":
    main()
