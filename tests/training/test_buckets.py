"""Which gradients are sent together."""

import pytest

from pipelines.train.collectives.buckets import buckets


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        # convnet_dropout: the hidden layer's weights go alone, while the convolutions' gradients are computed.
        ([1152, 128, 36_864, 128, 2_359_296, 512, 5120, 40], [[4], [7, 6, 5, 3, 2, 1, 0]]),
        ([400_000] * 5, [[4, 3, 2], [1, 0]]),
        ([2_000_000, 1_000_000], [[1], [0]]),
        ([8], [[0]]),
    ],
)
def test_large_gradients_go_alone_and_small_ones_together_in_the_order_of_the_backward_pass(sizes, expected):
    assert buckets(sizes, 1_000_000) == expected
    assert sorted(index for bucket in buckets(sizes, 1_000_000) for index in bucket) == list(range(len(sizes)))


def test_without_a_size_each_gradient_goes_by_itself():
    assert buckets([8, 0, 8], 0) == [[2], [1], [0]]
