#!/usr/bin/env bash
# sbatch --array=0-63 configs/slurm/evaluate_array.sh configs/evaluate/classification.yaml --out studies/nodules
# One task of 64 for every 64th fit of a study, a GPU each. Learning rates are tried at the first draw, so a study of many is three lines:
#   first=$(sbatch --parsable --gpus=1 --wrap "python -m medcl evaluate STUDY.yaml draws=1 --out studies/nodules")     # prepares, embeds, tries the rates
#   all=$(sbatch --parsable --dependency=afterok:$first --array=0-63 configs/slurm/evaluate_array.sh STUDY.yaml --out studies/nodules)
#   sbatch --dependency=afterok:$all --wrap "python -m medcl evaluate STUDY.yaml --out studies/nodules"                # the tables and the page
# A task that finds no tried rates tries them itself; a task that is queued again makes what is missing, and nothing twice.
#SBATCH --job-name=medcl
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
exec python -m medcl evaluate "$@" --task "$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))" --tasks "$SLURM_ARRAY_TASK_COUNT"
