"""Convoy: train Keras networks on a Spark cluster.

Read the folders in the order of the road: `ingest`, `stream`, `models`, `train`, `launch`, `track`, `score`, `submit`.
The modules beside them hold the words that all of them share.
"""

__version__ = "0.1.0"
