"""Whether the compiled Horovod computes what its operations say, on two ranks, against NumPy."""

import numpy as np
import pytest
from support import ranks

from pipelines.config import LaunchConfig
from pipelines.launch.ranks import run

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each of two ranks got from every operation."""
    return run(ranks.horovod_operations, -2, launch=LaunchConfig(runs_uri=str(tmp_path_factory.mktemp("runs"))))


@pytest.fixture(scope="module")
def inputs():
    return [ranks.horovod_inputs(rank) for rank in range(2)]


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_averages_and_sums_are_those_of_numpy(results, inputs, mode, dtype):
    tolerance = {"float32": 1e-6, "float64": 1e-15, "float16": 1e-3}[dtype]
    terms = [values["matrix"].astype(dtype).astype(np.float64) for values in inputs]
    for found in results:
        np.testing.assert_allclose(found[mode][f"average {dtype}"], np.mean(terms, axis=0), rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(found[mode][f"sum {dtype}"], np.sum(terms, axis=0), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_compressed_average_is_that_of_the_values_in_float16(results, inputs, mode):
    expected = np.mean([values["matrix"].astype(np.float16).astype(np.float32) for values in inputs], axis=0)
    for found in results:
        assert found[mode]["compressed"].dtype == np.float32
        np.testing.assert_allclose(found[mode]["compressed"], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_group_is_averaged_tensor_by_tensor_whatever_their_shapes(results, inputs, mode):
    for found in results:
        for number, average in enumerate(found[mode]["group"]):
            expected = np.mean([values["group"][number] for values in inputs], axis=0)
            np.testing.assert_allclose(average, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_gathering_joins_unequal_parts_in_rank_order(results, inputs, mode):
    for found in results:
        np.testing.assert_array_equal(found[mode]["gathered"], np.concatenate([values["rows"] for values in inputs]))


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("root", [0, 1])
def test_a_broadcast_is_bit_by_bit_that_of_its_root(results, inputs, mode, root):
    for found in results:
        np.testing.assert_array_equal(found[mode][f"broadcast from {root}"], inputs[root]["matrix"])


def test_objects_are_gathered_in_rank_order(results):
    assert [found["objects"] for found in results] == [[{"rank": 0}, {"rank": 1, "more": "text"}]] * 2


def test_it_was_compiled_with_gloo_for_this_tensorflow_and_without_mpi(results):
    assert [found["built"] for found in results] == [{"gloo": True, "mpi": False}] * 2
