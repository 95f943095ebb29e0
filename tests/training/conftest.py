import os

import pytest
from support.synthetic import write_table

from pipelines.system.tensorflow_env import tensorflow_environment

# Before TensorFlow is imported: what is tested here are the kernels that ranks compute with.
os.environ.update(tensorflow_environment(os.environ))


@pytest.fixture(scope="module")
def horovod():
    """Horovod with this process as its only rank."""
    import horovod.tensorflow as hvd

    hvd.init()
    yield
    hvd.shutdown()


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("table"), {"train": 640, "validation": 101, "test": 103})
