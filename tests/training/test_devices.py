import pytest

from pipelines.errors import LaunchError
from pipelines.train.devices import gpu_index, use_own_gpu


def test_a_rank_that_sees_one_gpu_takes_it_and_else_the_ranks_of_a_node_take_them_in_turn():
    assert gpu_index(1, local_rank=3, local_size=4) == 0
    assert [gpu_index(4, rank, 4) for rank in range(4)] == [0, 1, 2, 3]


def test_more_ranks_than_gpus_on_a_node_are_refused():
    with pytest.raises(LaunchError, match=r"^4 workers on a node with 2 GPUs; set spark\.task\.resource\.gpu\.amount=1"):
        gpu_index(2, local_rank=0, local_size=4)


def test_without_a_gpu_there_is_nothing_to_take():
    assert use_own_gpu() is None
