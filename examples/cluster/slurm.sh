#!/usr/bin/env bash
# sbatch slurm.sh FOLDER N_COMPONENTS
#SBATCH --job-name=jaxgmm
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --kill-on-bad-exit=1
set -euo pipefail
srun python fit.py "$1" "$2"
