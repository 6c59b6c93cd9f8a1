#!/usr/bin/env bash
# Orbax's training Checkpointer saves step 20, and then step 10, as after going back to an earlier state.
# A good guess: step 10 is saved, or an error says why not.
# What happens: nothing is written and nothing is raised; only the return value, False, tells.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 orbax-checkpoint==0.12.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - "$folder/run" <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from orbax.checkpoint import v1 as ocp

with ocp.training.Checkpointer(sys.argv[1]) as checkpointer:
    later = checkpointer.save(20, {"a": np.zeros(2)})
    earlier = checkpointer.save(10, {"a": np.ones(2)})
    steps = [checkpoint.step for checkpoint in checkpointer.checkpoints]
print(f"orbax-checkpoint {version('orbax-checkpoint')}: saved {later} and {earlier}; steps on disk {steps}")
assert (later, earlier, steps) == (True, False, [20]), "saving an earlier step changed"
PYTHON
