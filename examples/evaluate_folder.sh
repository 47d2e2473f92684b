#!/bin/sh
# The same prompts and seeds plain and accelerated, then how far and how good, as figures and as a page with pictures:
# pairs are found by id and seed. Takes the folder for the results; STEPS and SEEDS make it shorter or longer.
set -eu
out=${1:-folders}
for method in plain toca:4:0.9; do
    dita generate --model shapes-flux --method $method --prompt "a large red circle on a white background" \
        --prompt "a small blue square on a grey background" --steps "${STEPS:-28}" --seeds "${SEEDS:-0..3}" \
        --out "$out/$(echo $method | tr : -)"
done
dita evaluate "$out/toca-4-0.9" --plain "$out/plain" --metrics psnr,ssim
dita compare --pictures "$out/plain" --pictures "$out/toca-4-0.9" --out "$out/report"
