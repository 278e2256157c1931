#!/usr/bin/env bash
# One machine, one process per GPU; a process that dies ends all, and the job begins again at most twice.
# Usage: PROCESSES=8 docs/jobs/torchrun.sh test --model AnomalyCLIP --data MVTecAD --data.root /data/mvtec
set -euo pipefail
exec python -m torch.distributed.run --standalone --nproc-per-node "${PROCESSES:-gpu}" --max-restarts "${RESTARTS:-2}" \
    -m zsad "$@" --trainer.strategy ddp --trainer.devices "${PROCESSES:-auto}"
