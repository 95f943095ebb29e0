"""Convoy: train Keras networks on a Spark cluster.

Read the folders in this order: `config`, `system`, `data` (sources, ingest, table, stream), `models`, `train`, `launch`, `track`,
`score`, `sweep`.
"""

__version__ = "0.1.0"

from pipelines import moved

moved.install()
