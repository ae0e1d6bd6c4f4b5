#!/usr/bin/env bash
# One cell of the paper's comparison, from grids: a corpus of one size, a model of one objective.
#   bash manifests/runs/pretrain.sh GRIDS OUT OBJECTIVE SIZE CHANNELS [RECIPE [OPTION of sttrain fit ...]]
# The same command again goes on where it stopped; corpora are shared by all objectives.
set -euo pipefail
[ $# -ge 5 ] || { sed -n '2,4s/^# *//p' "$0" >&2; exit 2; }
grids=$1 out=$2 objective=$3 size=$4 channels=$5
recipe=${6:-$(dirname "$0")/paper.toml}
shift $(($# < 6 ? $# : 6))

corpus=$out/corpus-$size-$channels
stbuild shard "$grids" -o "$corpus" --window "$size" --genes "$channels" --whole-slices
sttrain fit "$corpus" -c "$recipe" --objective "$objective" \
  -o "$out/run-$objective-$size-$channels" "$@"
