#!/usr/bin/env bash
#SBATCH --job-name=zsad-score
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
# A Ray cluster inside a SLURM job: its head on the first node, then one command that scores on all of them.
# Usage: sbatch docs/jobs/ray.sh s3://bucket/photos --out s3://bucket/scores --method anomalyclip --class-name "bearing"
set -euo pipefail
export RAY_USAGE_STATS_ENABLED=0
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --port=6379 --include-dashboard=false --block &
sleep 30
srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$head" \
    ray start --address="$head:6379" --block &
sleep 30
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" python -m zsad score "$@" --engine ray --address "$head:6379"
