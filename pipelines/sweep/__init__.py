"""Many trainings in one Spark session: which settings, in which order, side by side, and what came of them."""
