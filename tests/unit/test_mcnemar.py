import math
from fractions import Fraction

import pytest

from pipelines.tasks.mcnemar import PairedCounts, exact_p_value


def test_the_p_value_matches_hand_computed_values():
    # Coin tosses: 5 of 5 the same, (1 + 1) / 32; 8 to 1, 2 * (1 + 9) / 512.
    assert exact_p_value(0, 5) == pytest.approx(2 / 32)
    assert exact_p_value(8, 1) == pytest.approx(20 / 512)
    assert exact_p_value(2, 10) == pytest.approx(2 * (1 + 12 + 66) / 4096)


def test_equal_classifiers_have_a_p_value_of_1():
    assert exact_p_value(0, 0) == 1
    assert exact_p_value(7, 7) == pytest.approx(1)
    assert exact_p_value(4, 5) == pytest.approx(1)


@pytest.mark.parametrize(("first", "second"), [(3, 11), (25, 60), (480, 530), (3000, 2500)])
def test_the_test_is_two_sided_and_exact_for_any_number_of_rows(first, second):
    tosses = first + second
    tail = Fraction(sum(math.comb(tosses, heads) for heads in range(min(first, second) + 1)), 2**tosses)
    assert exact_p_value(first, second) == pytest.approx(float(2 * tail), rel=1e-8)
    assert exact_p_value(second, first) == exact_p_value(first, second)
    assert not math.isnan(exact_p_value(0, 100_000))


def test_paired_counts_give_both_accuracies():
    counts = PairedCounts(both=90, only_first=2, only_second=6, neither=2)
    assert (counts.rows, counts.first_accuracy, counts.second_accuracy) == (100, 0.92, 0.96)
    assert counts.p_value == pytest.approx(2 * (1 + 8 + 28) / 256)
