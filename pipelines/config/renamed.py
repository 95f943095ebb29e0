"""Settings that were renamed. Their old names keep working in files, flags and the records of earlier runs."""

import logging

RENAMED = {"training.own_operations": "training.custom_kernels"}
"""Old name to new name, both `section.key`."""

_log = logging.getLogger(__name__)
_announced: set[str] = set()


def current_name(key: str, origin: str = "") -> str:
    """The name of a setting today.

    Args:
        key: `section.key`, old or new.
        origin: the file or flag that uses it. If given, the first use of an old name is logged as a warning.
    """
    if key not in RENAMED:
        return key
    if origin and key not in _announced:
        _announced.add(key)
        _log.warning("%s: %s is now called %s; the old name still works", origin, key, RENAMED[key])
    return RENAMED[key]
