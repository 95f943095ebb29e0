"""The journal of a run: every tracking action, on disk before MLflow hears of it.

    RUN_DIR/tracking/journal.jsonl    what happened, one JSON object a line
    RUN_DIR/tracking/accepted.jsonl   which of it the tracking server has
    RUN_DIR/tracking/files/           texts and figures that entries refer to

The journal is the truth and MLflow follows it (`pipelines.track.mlflow.follower`). So a server that is down, slow or full costs
no data: `./convoy replay RUN_DIR` later hands over what is missing. Nothing secret is in it: texts are masked, and values that
MLflow is told, such as names, paths and addresses, only as far as they hold credentials (`pipelines.system.secrets.mask_value`).
"""

import contextlib
import fcntl
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipelines.errors import ConvoyError
from pipelines.system import atomic, writeback
from pipelines.system.secrets import mask, mask_value, masked
from pipelines.track.rundir import layout

FOLDER = "tracking"
# In a tag these stand for what only the tracking server knows.
RUN_ID, EXPERIMENT_ID = "$RUN_ID", "$EXPERIMENT_ID"
_DATA_FILES = (".yml", ".json", ".csv")
_TAGS_FOR_PROGRAMS = re.compile(
    r"(?:mlflow\.(?!note\.content$)|convoy|version\.).*|run_dir|model_uri|model_version|kind|sweep|trial(?:\..*)?|splits"
)
Action = Literal["open", "params", "tags", "metrics", "inputs", "artifact", "model", "status"]


@dataclass(frozen=True)
class Entry:
    """One action."""

    n: int
    """Its number in the journal, from 1."""
    action: Action
    time: int
    """Milliseconds since the Unix epoch."""
    values: dict[str, Any]


@dataclass
class Accepted:
    """What a tracking server has taken."""

    tracking_uri: str = ""
    """Masked."""
    run_id: str = ""
    model_uri: str = ""
    entries: set[int] = field(default_factory=set)
    refused: dict[int, str] = field(default_factory=dict)
    """Entries that hold a value the server does not accept, and why."""


class Journal:
    """The journal of one run folder. Several threads may append; one process at a time should follow (`exclusive`)."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.problem = ""
        """Why something could not be written, if so."""
        self._folder = run_dir / FOLDER
        self._lock = threading.Lock()
        self._entries = list(_read_entries(writeback.latest(run_dir, self._folder / "journal.jsonl")))
        self.accepted = _read_accepted(writeback.latest(run_dir, self._folder / "accepted.jsonl"))

    @classmethod
    def of(cls, run_dir: Path) -> "Journal":
        """The journal of a run that is there.

        Raises:
            ConvoyError: the folder holds none.
        """
        journal = cls(run_dir)
        if not journal.entries():
            raise ConvoyError(f"{run_dir}: no tracking journal; name the folder of a run, such as one below runs/")
        return journal

    def entries(self) -> list[Entry]:
        with self._lock:
            return list(self._entries)

    def pending(self) -> list[Entry]:
        """What no server has taken yet."""
        settled = self.accepted.entries | self.accepted.refused.keys()
        return [entry for entry in self.entries() if entry.n not in settled]

    def append(self, action: Action, values: Mapping[str, Any], at: float | None = None) -> Entry:
        """Put an action on disk, without credentials.

        A disk that takes no more is remembered in `problem`: training is not the place to fail for want of a record.

        Args:
            action: what MLflow shall be told.
            values: plain data.
            at: seconds since the Unix epoch; now by default.
        """
        with self._lock:
            number = self._entries[-1].n + 1 if self._entries else 1
            entry = Entry(number, action, int((time.time() if at is None else at) * 1000), _masked(action, values))
            self._entries.append(entry)
            self._write("journal.jsonl", asdict(entry))
        return entry

    def file(self, name: str, content: str | bytes) -> str:
        """Keep a file that an entry refers to. Texts are masked; in YAML, JSON and CSV only what must be a credential.

        Gives its path below the run folder.
        """
        path = self._folder / "files" / name
        if isinstance(content, str):
            content = mask_value(content) if path.suffix in _DATA_FILES else mask(content)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, content, private=True)
        return str(path.relative_to(self.run_dir))

    def opened(self, tracking_uri: str, run_id: str) -> None:
        """The run now exists on a server. What another server, or another run, has taken does not count."""
        known = (mask_value(tracking_uri), run_id)
        if known == (self.accepted.tracking_uri, self.accepted.run_id):
            return
        self.accepted = Accepted(*known)
        self._mark({"tracking_uri": known[0], "run_id": run_id})
        try:
            layout.write_record(self.run_dir, layout.RunRecord(run_id, known[0]))
        except OSError as error:
            self.problem = f"{self.run_dir}: cannot be written ({error.strerror})"

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

    def retry_refused(self) -> None:
        """Make pending again what was refused: another server, or another version, may think better of it."""
        self.accepted.refused.clear()

    @property
    def ended(self) -> bool:
        """True when the last word on the run's status is that it is over."""
        statuses = [entry.values["status"] for entry in self.entries() if entry.action == "status"]
        return bool(statuses) and statuses[-1] != "RUNNING"

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[bool]:
        """Hold the journal while following it. Gives False when another process holds it; the kernel frees it when that ends."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except OSError:
                # A file system without locks, as some mounts are.
                pass
            yield True

    def _mark(self, mark: Mapping[str, Any]) -> None:
        with self._lock:
            self._write("accepted.jsonl", mark)

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        path = self._folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            growing = writeback.stage_of(self.run_dir).file(path)
            with open(growing, "ab", opener=atomic.owner_only) as file:
                # A line that a full disk or a kill has cut off must not swallow the next one.
                start = b"\n" if _torn(growing) else b""
                file.write(start + json.dumps(content).encode() + b"\n")
        except OSError as error:
            self.problem = f"{path}: cannot be written ({error.strerror})"


def _masked(action: Action, values: Mapping[str, Any]) -> dict[str, Any]:
    """Most tags are texts for people; what else an entry holds is a value, or MLflow is to do something with it."""
    if action == "tags":
        return {key: masked(value, mask_value if _TAGS_FOR_PROGRAMS.fullmatch(key) else mask) for key, value in values.items()}
    return masked(dict(values), mask_value)


def new_key() -> str:
    """What the run is found by on the server, should the answer to its creation be lost."""
    return uuid.uuid4().hex


def _read_entries(path: Path) -> Iterator[Entry]:
    for line in _lines(path):
        with contextlib.suppress(TypeError):
            yield Entry(**line)


def _read_accepted(path: Path) -> Accepted:
    accepted = Accepted()
    for mark in _lines(path):
        if "run_id" in mark:
            accepted = Accepted(mark["tracking_uri"], mark["run_id"])
        elif "accepted" in mark:
            accepted.entries |= set(mark["accepted"])
            accepted.refused = {number: why for number, why in accepted.refused.items() if number not in accepted.entries}
            accepted.model_uri = mark.get("model_uri", accepted.model_uri)
        elif "refused" in mark:
            accepted.refused[mark["refused"]] = mark["why"]
    return accepted


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file; one that was cut off is passed over."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                yield value


def _torn(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
