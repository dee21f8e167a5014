#!/usr/bin/env bash
# Train in several processes, one per GPU (NCCL), or on the CPU where there is no GPU (gloo):
#   tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# On one machine a free port is taken. On several, set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG PROCESSES [options of tools/train.py]" >&2
    exit 2
fi
CONFIG=$1
PROCESSES=$2
shift 2

if [ "${NNODES:-1}" -gt 1 ] || [ -n "${PORT:-}" ]; then
    RENDEZVOUS=(--nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}"
                --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="${PORT:-29500}")
else
    RENDEZVOUS=(--standalone)
fi
exec "${PYTHON:-python}" -m torch.distributed.run "${RENDEZVOUS[@]}" --nproc-per-node="$PROCESSES" \
    "$(dirname "${BASH_SOURCE[0]}")/train.py" "$CONFIG" --launcher pytorch "$@"
