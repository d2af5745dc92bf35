"""SLURM through submitit: submission, ranks, preemption and requeues, arrays with dependencies, what became of jobs."""
