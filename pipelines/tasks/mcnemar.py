"""McNemar's exact test: is one classifier better than another on the same rows?

Source: McNemar 1947, "Note on the sampling error of the difference between correlated proportions or percentages",
Psychometrika 12.
The exact binomial form and its use for classifiers: Dietterich 1998, "Approximate statistical tests for comparing supervised
classification learning algorithms", Neural Computation 10.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PairedCounts:
    """Number of rows by which of two classifiers get them right."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def rows(self) -> int:
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def first_accuracy(self) -> float:
        return (self.both + self.only_first) / self.rows

    @property
    def second_accuracy(self) -> float:
        return (self.both + self.only_second) / self.rows

    @property
    def first_is_better(self) -> bool:
        return self.only_first > self.only_second

    @property
    def p_value(self) -> float:
        return exact_p_value(self.only_first, self.only_second)

    @property
    def test_name(self) -> str:
        return "McNemar's exact test"

    @property
    def facts(self) -> dict[str, str]:
        """The figures as text, with the first classifier as challenger of the second."""
        return {
            "accuracy": f"{self.first_accuracy:.6f}",
            "champion_accuracy": f"{self.second_accuracy:.6f}",
            "only_challenger_right": str(self.only_first),
            "only_champion_right": str(self.only_second),
        }

    @property
    def counts(self) -> str:
        return f"only the challenger gets {self.only_first:,} right, only the champion {self.only_second:,}"

    @property
    def scores(self) -> str:
        return f"accuracy {100 * self.first_accuracy:.2f} % against {100 * self.second_accuracy:.2f} %"


def exact_p_value(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's exact test.

    If both were equally good, each row that only one of them gets right would be the toss of a fair coin. The p-value is the
    probability of tosses at least as unequal; 1 if there are no such rows.

    Args:
        only_first: rows that only the first classifier gets right.
        only_second: rows that only the second gets right.
    """
    from scipy.stats import binomtest

    disagreements = only_first + only_second
    return float(binomtest(only_first, disagreements).pvalue) if disagreements else 1.0
