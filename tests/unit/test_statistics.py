import numpy as np
import pytest

from pipelines.data.ingest.statistics import Moments, merged


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_the_moments_of_parts_merge_to_those_of_all_rows(monkeypatch, offset):
    values = (np.random.default_rng(1).normal(offset, 2.0, (1000, 3))).astype(np.float32)
    monkeypatch.setattr("pipelines.data.ingest.statistics._VALUES_AT_ONCE", 30)
    parts = [Moments.from_bytes(Moments.of(part).to_bytes()) for part in np.split(values, [1, 400, 990])]
    total = merged(parts)
    assert total.rows == 1000
    np.testing.assert_allclose(total.means, values.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(total.deviations, values.std(axis=0, dtype=np.float64), rtol=1e-9)


def test_what_is_constant_has_its_value_as_mean_and_deviation_1():
    values = np.tile(np.asarray([0.1, 3.0e5, 0.0, 1e-35], np.float32), (777, 1))
    total = merged([Moments.of(values[:500]), Moments.of(values[500:])])
    np.testing.assert_array_equal(total.means, values[0].astype(np.float64))
    assert total.deviations.tolist() == [1.0] * 4


def test_bytes_and_a_single_row_have_moments():
    assert Moments.of(np.asarray([[0], [255]], np.uint8)).deviations.tolist() == [127.5]
    assert Moments.of(np.asarray([[7.0, 8.0]])).deviations.tolist() == [1.0, 1.0]
