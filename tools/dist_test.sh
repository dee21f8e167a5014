#!/usr/bin/env bash
# Test in several processes, one per GPU (NCCL), or on the CPU where there is no GPU (gloo):
#   tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]
# On one machine a free port is taken. On several, set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT PROCESSES [options of tools/test.py]" >&2
    exit 2
fi
CONFIG=$1
CHECKPOINT=$2
PROCESSES=$3
shift 3

if [ "${NNODES:-1}" -gt 1 ] || [ -n "${PORT:-}" ]; then
    RENDEZVOUS=(--nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}"
                --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="${PORT:-29500}")
else
    RENDEZVOUS=(--standalone)
fi
exec "${PYTHON:-python}" -m torch.distributed.run "${RENDEZVOUS[@]}" --nproc-per-node="$PROCESSES" \
    "$(dirname "${BASH_SOURCE[0]}")/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "$@"
