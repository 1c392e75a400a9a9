#!/usr/bin/env bash
# Runs the main job on this machine, on all the devices that JAX finds here.
#
#   launch/local.sh configs/slake_tiny.py runs/slake_tiny --config.data.root=DIR
#
# Run it again after an interruption: it goes on from the last checkpoint.
set -euo pipefail

if (( $# < 2 )); then
  echo "usage: $0 CONFIG WORKDIR [--mode train|evaluate] [--config.section.field=value ...]" >&2
  exit 2
fi
config=$1
workdir=$2
shift 2

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
if ! command -v "$python" > /dev/null; then
  echo "error: there is no $python; run 'make demo' once, or set PYTHON to one that has rllava_jax installed" >&2
  exit 1
fi
exec "$python" -m rllava_jax.main --config "$config" --workdir "$workdir" "$@"
