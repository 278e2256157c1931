#!/usr/bin/env bash
#SBATCH --job-name=zsad
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=12
#SBATCH --time=04:00:00
#SBATCH --requeue
# Lightning reads the SLURM variables: as many processes as tasks, one per GPU.
# Usage: sbatch docs/jobs/slurm.sh test --model AnomalyCLIP --data MVTecAD --data.root /data/mvtec
set -euo pipefail
srun --kill-on-bad-exit=1 python -m zsad "$@" --trainer.strategy ddp \
    --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "$SLURM_NTASKS_PER_NODE"
