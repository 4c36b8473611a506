#!/usr/bin/env bash
# sbatch configs/slurm/pretrain_one_node.sh configs/pretrain/ct_moco.yaml --out runs/ct_moco
# One node, four GPUs, one process each. USR1 comes five minutes before the end: the run saves, returns 75 and is queued again.
#SBATCH --job-name=medcl
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
srun --kill-on-bad-exit=1 python -m medcl pretrain "$@"
code=$?
[ "$code" -eq 75 ] && scontrol requeue "$SLURM_JOB_ID"
exit "$code"
