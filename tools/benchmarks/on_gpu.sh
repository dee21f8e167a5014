#!/bin/sh
# Everything that a machine with a GPU can say about this package, in at most eight minutes:
#   sh tools/benchmarks/on_gpu.sh [--out-dir DIR] [--parts PART ...] [--dry]
# Tables in DIR/on_gpu.md, a line of JSON per row in DIR/on_gpu/PART.jsonl; see on_gpu.py.
set -eu
cd "$(dirname "$0")/../.."
exec env PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" "${PYTHON:-python}" tools/benchmarks/on_gpu.py "$@"
