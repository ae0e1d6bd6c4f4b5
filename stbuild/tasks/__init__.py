"""Where tasks run: a loop, local processes, a Dask cluster, jobs of SLURM."""
