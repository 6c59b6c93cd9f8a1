#!/usr/bin/env bash
# One process a GPU on a Slurm cluster; jax.distributed finds the others from Slurm's own variables. Each process sees
# all GPUs of its node and takes the one of its number: --gpus-per-task would hide the others and number each as 0.
#
#   sbatch --nodes 2 --gpus-per-node 8 --ntasks-per-node 8 launch/slurm.sh train bert_base --run-dir /shared/runs/bert
#
# The run's folder and the cache of prepared rows must be on storage that every node sees. A job that is requeued
# continues its run: Slurm's SIGTERM saves a checkpoint, the next start reads it.
#SBATCH --job-name=jaxencoder
#SBATCH --cpus-per-task=8
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

export JAXENCODER_DISTRIBUTED=1
export JAXENCODER_CACHE="${JAXENCODER_CACHE:-$SLURM_SUBMIT_DIR/.cache/jaxencoder}"
export TOKENIZERS_PARALLELISM=false

exec srun --kill-on-bad-exit=1 jaxencoder "$@"
