"""Figures of a run. Each module answers one question: a pure function of numbers gives the picture and the numbers it shows.

Nothing here needs TensorFlow or MLflow. `predictions` draws all that a set of predictions can tell.
"""
