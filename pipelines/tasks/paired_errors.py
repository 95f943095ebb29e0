"""Paired test on errors: does one of two models of numbers predict the same rows more closely than the other?

Source: Diebold and Mariano 1995, "Comparing predictive accuracy", Journal of Business & Economic Statistics 13, which tests the
mean difference of the losses, here squared errors; with Student's distribution as proposed by Harvey, Leybourne and Newbold 1997,
"Testing the equality of prediction mean squared errors", International Journal of Forecasting 13. For rows that do not depend on
each other this is the paired t-test on squared errors. It needs a few sums over the rows, however many these are.
"""

import math
from dataclasses import dataclass

from pipelines.tasks.metric import plain


@dataclass(frozen=True, kw_only=True)
class PairedErrors:
    """Sums over rows of the squared errors of two models.

    An error is the mean over the predicted numbers of the squared error over the variance of that number among the training rows.
    """

    rows: int
    first: float
    """Sum of the first model's squared errors."""
    second: float
    squared_difference: float
    """Sum of the squares of their differences."""
    first_closer: int
    """Rows on which the first model's error is smaller."""
    second_closer: int

    @property
    def first_is_better(self) -> bool:
        return self.first < self.second

    @property
    def p_value(self) -> float:
        return paired_p_value(self.rows, self.first - self.second, self.squared_difference)

    @property
    def test_name(self) -> str:
        return "paired t-test on squared errors"

    @property
    def facts(self) -> dict[str, str]:
        """The figures as text, with the first model as challenger of the second."""
        return {
            "relative_squared_error": f"{self.first / self.rows:.6g}",
            "champion_relative_squared_error": f"{self.second / self.rows:.6g}",
            "challenger_closer": str(self.first_closer),
            "champion_closer": str(self.second_closer),
        }

    @property
    def counts(self) -> str:
        return f"the challenger is closer on {self.first_closer:,}, the champion on {self.second_closer:,}"

    @property
    def scores(self) -> str:
        first, second = (plain(value / self.rows) for value in (self.first, self.second))
        return f"squared error over the variance {first} against {second}"


def paired_p_value(rows: int, total: float, squares: float) -> float:
    """Two-sided p-value of the paired t-test that the mean difference is 0.

    Args:
        rows: number of differences.
        total: their sum.
        squares: sum of their squares.

    Returns:
        1 for fewer than two rows, and if all differences are 0; 0 if all are equal otherwise.
    """
    from scipy.stats import t

    if rows < 2 or not squares:
        return 1.0
    variance = max(squares - total**2 / rows, 0.0) / (rows - 1)
    if not variance:
        return 0.0
    return float(2 * t.sf(abs(total / rows) / math.sqrt(variance / rows), rows - 1))
