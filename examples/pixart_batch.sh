#!/bin/sh
# PixArt, every prompt of a file four times, on all GPUs of this machine. Stopped and started again, it goes on.
# Without a GPU: MODEL=shapes-pixart STEPS=20 sh examples/pixart_batch.sh prompts.txt out
set -eu
exec torchrun --nproc-per-node "${WORKERS:-gpu}" -m dita generate \
    --model "${MODEL:-PixArt-alpha/PixArt-XL-2-1024-MS}" --method toca:3:0.7 --steps "${STEPS:-20}" \
    --prompts "$1" --seeds 0..3 --out "$2"
