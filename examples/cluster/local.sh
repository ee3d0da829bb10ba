#!/usr/bin/env bash
# Several processes on this machine: local.sh N_PROCESSES FOLDER N_COMPONENTS
set -euo pipefail
count=$1 folder=$2 components=$3
port=$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
pids=()
for rank in $(seq 0 $((count - 1))); do
  python "$(dirname "$0")/fit.py" "$folder" "$components" "127.0.0.1:$port" "$count" "$rank" &
  pids+=($!)
done
for pid in "${pids[@]}"; do
  wait "$pid"
done
