#!/bin/sh
# The brief's stage as a program. `run.sh rtx4090` compiles for that GPU and times nothing; `run.sh` alone measures on
# the GPU at hand, into the folder `measured`, or the one that its second argument names. --fresh: a run of its own.
set -eu
export COLUMNS=120
cd "$(dirname "$0")"
target=${1:-}
folder=${2:-${target:-measured}}
mkdir -p "$folder"
fusetune tune current.py --reference ref.py --ncu metrics.json ${target:+--target "$target"} --fresh \
    -o "$folder/optimized.py" --configs configs --runs runs >"$folder/output.txt" || ended=$?
cat "$folder/output.txt"
exit "${ended:-0}"
