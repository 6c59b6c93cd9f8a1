"""Time and memory of opening a folder of 1.3 GB, against transformers and against another version of this package.

    python benchmarks/load.py                       # 5 rounds, a few minutes on 2 cores
    python benchmarks/load.py --before ../other     # also the package of another checkout
    python benchmarks/load.py --folder FOLDER --rounds 9

The folder, if none is given, is BERT-large with random float32 weights in one safetensors file. Each opening is a
process of its own, which has imported its library before the clock starts; the sides alternate. Ours is
`jaxencoder.load`, with the parameters on the device, ready to run. Theirs is `AutoModel.from_pretrained`, which maps
the file, and one sum over each parameter, which reads it. "Mapped" is theirs without the sums: nothing is read yet.
Memory is the peak of resident memory, less what was resident before the call; pages of a mapped file count while they
are resident. The file is in the page cache. The result is the median of the rounds. Run it on an idle machine, see
train_step.py.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import json, sys, time
import numpy as np
{imports}
def resident(kind):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(kind)) / 1024
before, wall, cpu = resident("VmRSS:"), time.perf_counter(), time.process_time()
{load}
print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu, resident("VmHWM:") - before]))
"""
OURS = (
    "import jax, jaxencoder; jaxencoder.load; jax.block_until_ready(jax.device_put(np.ones(4)))",
    "jax.block_until_ready(jaxencoder.load(sys.argv[1]).device_params)",
)
THEIRS = "import torch; from transformers import AutoModel, BertModel; torch.ones(4).sum()"
MAPPED = "model = AutoModel.from_pretrained(sys.argv[1])"
READ = f"{MAPPED}; [float(x.sum()) for x in model.parameters()]"


def make_folder(folder: str) -> None:
    """Save BERT-large with random weights."""
    import transformers

    config = transformers.BertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    )
    transformers.BertModel(config).save_pretrained(folder)


def opened(imports: str, load: str, folder: str, package: Path) -> list[float]:
    """Wall and CPU seconds, and MiB of peak memory, of one opening in a new process."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(package), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", CODE.format(imports=imports, load=load), folder]
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True, cwd=package)
    return json.loads(output.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="a folder of transformers; default: one made by this script")
    parser.add_argument("--before", type=Path, help="another checkout of this package")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    sides = {"jaxencoder": (*OURS, ROOT), "transformers": (THEIRS, READ, ROOT), "mapped": (THEIRS, MAPPED, ROOT)}
    if args.before:
        sides["before"] = (*OURS, args.before.resolve())
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or temporary
        if not args.folder:
            make_folder(folder)
        rounds = [
            {name: opened(*side[:2], folder, side[2]) for name, side in sides.items()} for _ in range(args.rounds)
        ]
    medians = {name: [statistics.median(r[name][i] for r in rounds) for i in range(3)] for name in sides}
    print("| side | wall s | CPU s | peak MiB | wall, CPU, memory of jaxencoder relative to it |")
    print("|---|---:|---:|---:|---|")
    for name, values in medians.items():
        ratios = ", ".join(f"{a / b:.2f}x" for a, b in zip(medians["jaxencoder"], values, strict=True))
        print(f"| {name} | {values[0]:.2f} | {values[1]:.2f} | {values[2]:.0f} | {ratios} |")


if __name__ == "__main__":
    main()
