#!/usr/bin/env bash
# The whole road on the two bundled slices: corpus, pretraining, probes, report, all in demo/.
# Every step resumes or replaces its own output; `rm -rf demo` starts afresh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PATH="$(cd "${VENV:-.venv}" && pwd)/bin:$PATH"
out=demo

step() { printf '\n== %s\n' "$*" >&2; }
run() { printf '$ %s\n' "$*" >&2 && "$@"; }

step 'What is in the slices, and what would be built?'
run stbuild plan manifests/corpora/sample.toml

step 'Slices -> grids (Zarr)'
run stbuild compact manifests/corpora/sample.toml -o $out/grids

step 'Grids -> training patches, and an evaluation corpus that covers every spot'
run stbuild shard $out/grids -o $out/train --n-per-slice 1000 --name sample
run stbuild shard $out/grids -o $out/eval --cover 8 --draws 4 --vocabulary $out/train --name sample-eval
run stbuild verify $out/train $out/eval

step 'Pictures of the grids'
run stbuild show $out/grids/151510.zarr -o $out/figures/151510.png
run stbuild show $out/grids/br8325-ant.zarr -o $out/figures/br8325-ant.png

step 'Pretraining a tiny masked autoencoder'
run sttrain fit $out/train -c manifests/runs/tiny.toml -o $out/run

step 'One vector per spot: before and after pretraining, and with the expression about it beside'
run sttrain embed $out/run $out/eval --untrained -o $out/untrained.h5ad
run sttrain embed $out/run $out/eval -o $out/pretrained.h5ad
run sttrain embed $out/run $out/eval --neighbours 6 --components 20 --expression 50 -o $out/combined.h5ad

step 'Probes: do the vectors know the cortical layers better than trivial baselines?'
run sttrain probe $out/eval \
    --method raw --method pca50 --method nbmean6-pca50 \
    --embedding untrained=$out/untrained.h5ad --embedding pretrained=$out/pretrained.h5ad \
    --embedding combined=$out/combined.h5ad \
    --split paper20@1 --split block20@1 --head knn --head mlp --mlp-epochs 50 --seeds 10 \
    -o $out/results

step 'Report'
run sttrain report $out/results -o $out/report
printf '\nPictures: %s/figures   Report: %s/report\n' $out $out
