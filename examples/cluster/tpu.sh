#!/usr/bin/env bash
# On every host of a Cloud TPU slice: tpu.sh NAME ZONE FOLDER N_COMPONENTS
set -euo pipefail
gcloud compute tpus tpu-vm scp fit.py "$1:" --worker=all --zone="$2"
gcloud compute tpus tpu-vm ssh "$1" --worker=all --zone="$2" \
  --command="pip install 'jax[tpu]' jaxgmm && python fit.py '$3' '$4'"
