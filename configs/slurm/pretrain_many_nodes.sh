#!/usr/bin/env bash
# sbatch configs/slurm/pretrain_many_nodes.sh configs/pretrain/ct_moco.yaml --out runs/ct_moco
# Four nodes of four GPUs. The first node's address and a port are found from SLURM's own variables.
#SBATCH --job-name=medcl
#SBATCH --nodes=4
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
