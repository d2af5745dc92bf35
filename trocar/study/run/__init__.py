"""Running the stages of a study, on this machine or on SLURM."""
