"""Figures of a run. Each module answers one question: a pure function of numbers returns the picture and the numbers it shows.

Nothing here needs TensorFlow or MLflow.
"""
