"""A model's own training rows among the rows that it is to be evaluated on. They are left out, and the user is told."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.data.table.schema import Split, Table
from pipelines.errors import DataError
from pipelines.score.model_info import ModelInfo

# Of very large tables a model records only a sample of the rows. With more than this share of training rows among the rows that
# can be compared, the accuracy on the others would say too little.
_MAX_SHARE_OF_SAMPLE = 0.01


@dataclass(frozen=True, kw_only=True)
class OwnRows:
    """How the training rows of one model are kept out of an evaluation."""

    compare: bool
    """Compare each row with the recorded ones."""
    splits: tuple[Split, ...] = ()
    """Splits that are training rows as a whole."""
    note: str = ""
    """What the user must know. Often empty."""


def plan(info: ModelInfo, table: Table, splits: Sequence[Split], *, keep: bool) -> OwnRows:
    """Decide how to recognize a model's training rows.

    Args:
        info: the model.
        table: the rows.
        splits: the splits of the table to evaluate on.
        keep: evaluate on training and validation rows if only these are asked for, by their split, of the model's own table.

    Raises:
        DataError: the record of the rows is damaged.
    """
    is_own_table = info.table_digest == table.manifest.digest
    if is_own_table and set(splits) == {"test"}:
        # The training has said how many of them repeat a training row.
        return OwnRows(compare=False)
    if is_own_table and keep and len(splits) == 1:
        return OwnRows(compare=False, note=f"model {info.uri} was trained with these rows ({splits[0]})")
    if info.training_rows() is not None:
        return OwnRows(compare=True)
    if is_own_table:
        note = f"rows of train and validation are left out, because model {info.uri} was trained with them"
        return OwnRows(compare=False, splits=("train", "validation"), note=note)
    note = f"model {info.uri} does not record the rows that it was trained on; if these are among them, the accuracy is too high"
    return OwnRows(compare=False, note=note)


def remaining_splits(plans: Sequence[OwnRows], models: Sequence[ModelInfo], splits: Sequence[Split]) -> tuple[Split, ...]:
    """The splits without those that are training rows of a model. Raises DataError if there are none."""
    for own, info in zip(plans, models, strict=True):
        if set(splits) <= set(own.splits):
            raise all_known(info, " and ".join(splits))
    return tuple(split for split in splits if not any(split in own.splits for own in plans))


def all_known(info: ModelInfo, rows: str) -> DataError:
    return DataError(f"all rows ({rows}) are rows that model {info.uri} was trained with; name other data")


@dataclass(frozen=True, kw_only=True)
class Recognized:
    """How many rows were found to be training rows of a model."""

    known: int
    comparable: int
    """Rows that the record can recognize: all, or those in its sample."""
    rows: int
    """All rows."""


def describe(info: ModelInfo, found: Recognized) -> str:
    """A line about the rows that were left out; empty if there are none.

    Raises:
        DataError: all rows are training rows, or too many of those that can be compared.
    """
    if not found.known:
        return ""
    if found.known == found.rows:
        raise all_known(info, f"{found.rows:,}")
    text = f"{found.known:,} of {found.rows:,} rows are left out, because model {info.uri} was trained with them"
    if found.comparable == found.rows:
        return text
    share = found.known / found.comparable
    if share > _MAX_SHARE_OF_SAMPLE:
        raise DataError(
            f"about {100 * share:.0f} % of the rows are rows that model {info.uri} was trained with, of which it records only a "
            "sample, so that they cannot be left out; name other data"
        )
    return (
        f"{text}; of the {found.rows - found.comparable:,} rows that its record does not cover, {100 * share:.2f} % may be, too"
    )
