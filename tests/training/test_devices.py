import pytest

from pipelines.errors import LaunchError
from pipelines.train.devices import gpu_index, use_own_gpu


def test_a_rank_takes_the_only_visible_gpu_or_the_one_of_its_local_rank():
    assert gpu_index(1, local_rank=3, local_size=4) == 0
    assert [gpu_index(4, rank, 4) for rank in range(4)] == [0, 1, 2, 3]


def test_more_ranks_than_gpus_on_a_node_are_rejected():
    with pytest.raises(LaunchError, match=r"^4 workers on a node with 2 GPUs; set spark\.task\.resource\.gpu\.amount=1"):
        gpu_index(2, local_rank=0, local_size=4)


def test_without_a_gpu_none_is_taken():
    assert use_own_gpu() is None
