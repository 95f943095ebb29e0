"""Figures of a run. Each module answers one question: a pure function of arrays returns the picture and its data.

Nothing here needs TensorFlow or MLflow.
"""
