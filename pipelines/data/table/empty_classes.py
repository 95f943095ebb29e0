"""Classes of which a split has no row: nothing is learned about them, or nothing measured."""

from pipelines.data.table.schema import SPLITS, Split, TableManifest

_MOST_NAMES = 10


def warning(manifest: TableManifest) -> str:
    """A line that names the classes without a row, split by split; empty if every split with rows has all classes."""
    by_classes: dict[tuple[int, ...], list[Split]] = {}
    for split in SPLITS:
        summary = manifest.splits.get(split)
        if summary is not None and summary.rows:
            missing = tuple(index for index, rows in enumerate(summary.rows_per_label) if not rows)
            by_classes.setdefault(missing, []).append(split)
    by_classes.pop((), None)
    if not by_classes:
        return ""
    parts = [_part(manifest, splits, missing) for missing, splits in by_classes.items()]
    learned = any("train" in splits for splits in by_classes.values())
    effect = "the network cannot learn a class that it never sees" if learned else "test figures say nothing about them"
    return f"{'; '.join(parts)}: {effect}"


def _part(manifest: TableManifest, splits: list[Split], missing: tuple[int, ...]) -> str:
    names = manifest.class_names
    present = [name for index, name in enumerate(names) if index not in missing]
    where = ", ".join(splits[:-1]) + (" and " if splits[:-1] else "") + splits[-1]
    if len(present) == 1:
        return f"all rows of {where} are of class {present[0]}"
    shown = ", ".join(names[index] for index in missing[:_MOST_NAMES])
    more = f" and {len(missing) - _MOST_NAMES} more" if len(missing) > _MOST_NAMES else ""
    return f"{where} {'have' if len(splits) > 1 else 'has'} no row of class {shown}{more}"
