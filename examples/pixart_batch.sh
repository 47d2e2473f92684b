#!/bin/sh
# PixArt, every prompt of a file four times, on all GPUs of this machine. Stopped and started again, it goes on.
# Without a GPU: MODEL=shapes-pixart sh examples/pixart_batch.sh prompts.txt out
set -eu
[ $# = 2 ] || { echo "usage: pixart_batch.sh PROMPTS_FILE OUT_FOLDER" >&2; exit 2; }
if [ -z "${WORKERS:-}" ]; then # processes: one a GPU, or one on the CPU
    WORKERS=$(python -c "import torch; print(torch.cuda.device_count() or 1)")
fi
exec python -m torch.distributed.run --nproc-per-node "$WORKERS" -m dita generate \
    --model "${MODEL:-PixArt-alpha/PixArt-XL-2-1024-MS}" --method toca:3:0.7 --steps "${STEPS:-20}" \
    --prompts "$1" --seeds "${SEEDS:-0..3}" --out "$2"
