"""The journal of a run: a write-ahead log of all tracking actions.

    RUN_DIR/tracking/journal.jsonl    the actions, one JSON object per line
    RUN_DIR/tracking/accepted.jsonl   the actions that the tracking server has performed
    RUN_DIR/tracking/files/           texts and figures that entries refer to

MLflow is synchronized with the journal (`pipelines.track.mlflow.follower`). So no data is lost if the server is down, slow or
full: `./convoy replay RUN_DIR` sends what is missing. The journal contains no credentials: texts are masked, and values that
MLflow interprets, such as names, paths and addresses, only where they hold credentials (`pipelines.system.secrets.mask_value`).
"""

import contextlib
import errno
import fcntl
import functools
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.errors import ConvoyError
from pipelines.system import atomic, checked_lines, writeback
from pipelines.system.secrets import mask, mask_value, masked
from pipelines.track.mlflow import journal_file
from pipelines.track.mlflow.journal_file import Accepted, Action, Entry
from pipelines.track.rundir import layout

FOLDER = "tracking"
# Placeholders in tags for what only the tracking server knows.
RUN_ID, EXPERIMENT_ID = "$RUN_ID", "$EXPERIMENT_ID"
_DATA_FILES = (".yml", ".json", ".csv")
_TAGS_FOR_PROGRAMS = re.compile(
    r"(?:mlflow\.(?!note\.content$)|convoy|version\.).*|run_dir|model_uri|model_version|kind|sweep|trial(?:\..*)?|splits"
)


class Journal:
    """The journal of a run folder. Several threads may append; only one process may send it (`exclusive`)."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.problem = ""
        """Why something could not be written, or empty."""
        self.damaged: list[str] = []
        """Entries that are not as they were written, and were left out."""
        self.forgotten: list[str] = []
        """The same of acceptances, without which entries are sent again."""
        self._folder = run_dir / FOLDER
        self._lock = threading.Lock()
        # Lines of each file that await space on the disk.
        self._unwritten: dict[str, list[bytes]] = {}
        self._unwritten_record: layout.RunRecord | None = None
        latest = functools.partial(writeback.latest, run_dir)
        self._entries = list(journal_file.read_entries(latest(self._folder / "journal.jsonl"), self.damaged))
        self.accepted = journal_file.read_accepted(latest(self._folder / "accepted.jsonl"), self.forgotten)
        # A server may have accepted entries that a full disk kept out of the journal.
        settled = [*self.accepted.entries, *self.accepted.refused]
        self._last = max([entry.n for entry in self._entries] + settled, default=0)

    @classmethod
    def of(cls, run_dir: Path) -> "Journal":
        """The journal of an existing run.

        Raises:
            ConvoyError: the folder has none, or one that does not say which run it is of.
        """
        journal = cls(run_dir)
        if not any(entry.action == "open" for entry in journal.entries()):
            if journal.damaged:
                raise ConvoyError(f"{journal.damaged[0]}; without this line nothing can be sent, restore the file from a copy")
            raise ConvoyError(f"{run_dir}: no tracking journal; name the folder of a run, such as one below runs/")
        return journal

    def entries(self) -> list[Entry]:
        with self._lock:
            return list(self._entries)

    @property
    def opening(self) -> Entry:
        """The entry that says which run this is."""
        return next(entry for entry in self.entries() if entry.action == "open")

    def pending(self) -> list[Entry]:
        """Entries that the server has neither performed nor rejected."""
        settled = self.accepted.entries | self.accepted.refused.keys()
        return [entry for entry in self.entries() if entry.n not in settled]

    def append(self, action: Action, values: Mapping[str, Any], at: float | None = None) -> Entry:
        """Write an action to disk, without credentials.

        A write error is kept in `problem` and not raised: training must not fail for lack of a record. The next entry brings with
        it what could not be written.

        Args:
            action: the kind of action.
            values: plain data.
            at: time in seconds since the Unix epoch; now by default.
        """
        with self._lock:
            self._last += 1
            entry = Entry(self._last, action, int((time.time() if at is None else at) * 1000), _masked(action, values))
            self._entries.append(entry)
            self._write("journal.jsonl", asdict(entry))
        return entry

    def file(self, name: str, content: str | bytes) -> str:
        """Write a file that an entry refers to. Texts are masked; in YAML, JSON and CSV only what must be a credential.

        Returns its path relative to the run folder.
        """
        path = self._folder / "files" / name
        if isinstance(content, str):
            content = mask_value(content) if path.suffix in _DATA_FILES else mask(content)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, content, private=True)
        return str(path.relative_to(self.run_dir))

    def opened(self, tracking_uri: str, run_id: str) -> None:
        """Record that the run exists on a server. Acceptances by another server or for another run are dropped."""
        known = (mask_value(tracking_uri), run_id)
        if known == (self.accepted.tracking_uri, self.accepted.run_id):
            return
        self.accepted = Accepted(*known)
        self._unwritten_record = layout.RunRecord(run_id, known[0])
        self._mark({"tracking_uri": known[0], "run_id": run_id})

    def accept(self, numbers: list[int], model_uri: str = "") -> None:
        self.accepted.entries |= set(numbers)
        for number in numbers:
            self.accepted.refused.pop(number, None)
        mark: dict[str, Any] = {"accepted": numbers}
        if model_uri:
            self.accepted.model_uri = mark["model_uri"] = model_uri
        self._mark(mark)

    def refuse(self, number: int, why: str) -> None:
        self.accepted.refused[number] = why
        self._mark({"refused": number, "why": mask(why)})

    def forget(self, numbers: Set[int]) -> None:
        """Make accepted entries pending again, which the server has lost."""
        if numbers:
            self.accepted.entries -= numbers
            self._mark({"lost": sorted(numbers)})

    def retry_refused(self) -> None:
        """Make rejected entries pending again: another server or version may accept them."""
        self.accepted.refused.clear()

    @property
    def ended(self) -> bool:
        """Whether the last status of the run is a final one."""
        statuses = [entry.values["status"] for entry in self.entries() if entry.action == "status"]
        return bool(statuses) and statuses[-1] != "RUNNING"

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[bool]:
        """Lock the journal for sending; yields False if another process holds the lock. It ends with the process."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except OSError:
                # Some mounts do not support locks.
                pass
            yield True

    def _mark(self, mark: Mapping[str, Any]) -> None:
        with self._lock:
            self._write("accepted.jsonl", mark)

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        self._unwritten.setdefault(name, []).append(checked_lines.encode(content))
        self._flush()

    def _flush(self) -> None:
        path = self.run_dir
        try:
            for name, lines in self._unwritten.items():
                path = self._folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                growing = writeback.stage_of(self.run_dir).file(path)
                with open(growing, "ab", buffering=0, opener=atomic.owner_only) as file:
                    while lines:
                        # The last line is incomplete after a full disk or a kill.
                        line = (b"\n" if journal_file.is_torn(growing) else b"") + lines[0]
                        if file.write(line) < len(line):
                            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                        lines.pop(0)
            if self._unwritten_record is not None:
                path = self.run_dir
                layout.write_record(self.run_dir, self._unwritten_record)
                self._unwritten_record = None
        except OSError as error:
            self.problem = f"{path}: cannot be written ({error.strerror})"
        else:
            self.problem = ""


def _masked(action: Action, values: Mapping[str, Any]) -> dict[str, Any]:
    """Mask the values of an entry. Most tags are prose; MLflow or a program interprets all other values."""
    if action == "tags":
        return {key: masked(value, mask_value if _TAGS_FOR_PROGRAMS.fullmatch(key) else mask) for key, value in values.items()}
    return masked(dict(values), mask_value)


def new_key() -> str:
    """Random key that identifies the run on the server if the response to its creation is lost."""
    return uuid.uuid4().hex
