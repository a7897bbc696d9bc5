#!/bin/sh
# Train on a GPU that is lent for minutes: first the members, then STLDM, then PostCast's prior. Call it again to go on.
#
#   sh recipes/gpu_minutes.sh DATA RUNS [MINUTES]
#
# DATA is what recipes/pack.py made. RUNS is the folder of the runs: bring it along, and take it back with weights, checkpoints
# and logs. MINUTES (8.5) is for the whole call; a run that is finished leaves its time to the next.
set -u
data=$1 runs=$2 minutes=${3:-8.5}
began=$(date +%s)
for name in members stldm postcast; do
    left=$(awk -v m="$minutes" -v s="$(($(date +%s) - began))" 'BEGIN { printf "%.2f", m - s / 60 }')
    case $left in -* | 0.[0-4]*) break ;; esac
    echo "$name: $left minutes left"
    python recipes/pretrain.py "$name" --data "$data" --out "$runs" --device "${DEVICE:-cuda}" --batches "${BATCHES:-16}" \
        --workers "${WORKERS:-8}" --minutes "$left" ${STEPS:+--steps "$STEPS"}
done
