#!/usr/bin/env bash
# sbatch --array=0-63 configs/slurm/evaluate_array.sh configs/evaluate/classification.yaml --out studies/nodules
# One task of 64 for every 64th fit of a study, a GPU each. Learning rates are tried at the first draw, so a whole study is three lines:
#   first=$(sbatch --parsable --gpus=1 --wrap "python -m medcl evaluate STUDY.yaml draws=1 --out studies/nodules")   # prepares, embeds, tries the rates
#   all=$(sbatch --parsable --dependency=afterok:$first --array=0-63 configs/slurm/evaluate_array.sh STUDY.yaml --out studies/nodules)
#   sbatch --dependency=afterok:$all --wrap "python -m medcl evaluate STUDY.yaml --out studies/nodules"              # the tables and the page
# A task that finds no tried rates tries them itself. USR1 comes before the end: finished fits are kept, the task returns 75 and is queued again.
#SBATCH --job-name=medcl
#SBATCH --gpus-per-task=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@60
#SBATCH --requeue
srun python -m medcl evaluate "$@" --task "$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))" --tasks "$SLURM_ARRAY_TASK_COUNT"
code=$?
[ "$code" -eq 75 ] && scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
exit "$code"
