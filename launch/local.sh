#!/usr/bin/env bash
# One machine, every device it has:          launch/local.sh train quickstart
# Try a mesh without accelerators (8 CPUs):  DEVICES=8 launch/local.sh train quickstart --mesh.fsdp 2 --mesh.tensor 2
set -euo pipefail

if [[ -n "${DEVICES:-}" ]]; then
    export JAX_PLATFORMS=cpu
    export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"
fi
export TOKENIZERS_PARALLELISM=false
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-1}"

exec jaxencoder "$@"
