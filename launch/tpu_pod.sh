#!/usr/bin/env bash
# The same command on every host of a Cloud TPU slice; jax.distributed finds the hosts from the slice's metadata.
#
#   TPU=my-slice ZONE=us-east5-a SHARED=/shared launch/tpu_pod.sh train bert_base --run-dir /shared/runs/bert
#
# Needs gcloud here, and on every host jaxencoder[tpu] and $SHARED: a folder on storage that all hosts mount, such as
# Filestore, for prepared rows and the run. It must have locks and rename folders, which a bucket by gcsfuse may not.
set -euo pipefail

: "${TPU:?name of the TPU VM}" "${ZONE:?its zone}" "${SHARED:?folder that every host mounts}"

environment=(JAXENCODER_DISTRIBUTED=1 "JAXENCODER_CACHE=$SHARED/cache" TOKENIZERS_PARALLELISM=false)
command=$(printf '%q ' env "${environment[@]}" jaxencoder "$@")

exec gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker all --command "$command"
