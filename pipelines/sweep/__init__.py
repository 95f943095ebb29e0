"""Hyperparameter sweeps: many trainings in one Spark session, in parallel, and the comparison of their results."""
