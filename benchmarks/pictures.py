"""The pictures of the README, from a real training: its terminal, the page of its run, and one of its figures.

    python benchmarks/pictures.py                    trains the default network on MNIST and writes docs/pictures/*.png
    python benchmarks/pictures.py --data FOLDER      MNIST's libsvm files in another place than the local DBFS root

Takes about two minutes and needs Chromium and ChromeDriver (apt-get install chromium chromium-driver). Look at the pictures
before you commit them.
"""

import argparse
import contextlib
import fcntl
import html
import json
import os
import pty
import re
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from processes import ROOT, SUBMIT

sys.path.insert(0, str(ROOT / "tests"))
from support.browser import Browser

PICTURES = ROOT / "docs/pictures"
COLUMNS, LINES = 110, 40
FIGURE = "confusion_matrix"
# How far the training is in the picture.
_SHARE = 0.6
_BRIGHT_BLACK = "#585b70"
_COLOURS = ("#1e1e2e", "#f38ba8", "#a6e3a1", "#f9e2af", "#89b4fa", "#f5c2e7", "#94e2d5", "#cdd6f4")
_PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; background: #1e1e2e; }}
pre {{ margin: 0; padding: 18px 22px; font: 15px/21px "DejaVu Sans Mono", monospace; color: #cdd6f4; }}
</style><pre>{}</pre>"""


class Screen:
    """What a terminal shows of what was written to it: text, line ends, erasing, cursor movements and colours."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._lines: list[list[tuple[str, str]]] = [[]]
        self._row = self._column = 0
        self._style = ""
        self._rest = ""

    def write(self, text: str) -> None:
        text = self._rest + text
        # The beginning of a sequence whose end has not been written yet.
        unfinished = re.search(r"\x1b(\[[\d;?]*)?$", text)
        self._rest = unfinished[0] if unfinished else ""
        text = text[: len(text) - len(self._rest)]
        for sequence, numbers, kind, letter in re.findall(r"(\x1b\[\??([\d;]*)([A-Za-z]))|(?s:(.))", text):
            if sequence:
                self._control(numbers, kind)
            elif letter == "\n":
                self._row, self._column = self._row + 1, 0
            elif letter == "\r":
                self._column = 0
            elif letter != "\x1b":
                self._put(letter)

    @property
    def text(self) -> list[str]:
        return ["".join(letter for letter, _ in line).rstrip() for line in self._lines]

    def as_html(self) -> str:
        """The lines that are not empty at the end, colours as styles."""
        lines = [
            "".join(
                f'<span style="{style}">{html.escape(letter)}</span>' if style else html.escape(letter) for letter, style in line
            )
            for line in self._lines
        ]
        return "\n".join(lines).rstrip()

    def _put(self, letter: str) -> None:
        if self._column == self._columns:
            self._row, self._column = self._row + 1, 0
        line = self._line()
        line.extend([(" ", "")] * (self._column + 1 - len(line)))
        line[self._column] = (letter, self._style)
        self._column += 1

    def _line(self) -> list[tuple[str, str]]:
        self._lines.extend([] for _ in range(self._row + 1 - len(self._lines)))
        return self._lines[self._row]

    def _control(self, numbers: str, kind: str) -> None:
        codes = [int(number) for number in numbers.split(";") if number]
        if kind == "K":
            line = self._line()
            del line[0 if codes == [2] else self._column :]
        elif kind == "A":
            self._row = max(0, self._row - (codes[0] if codes else 1))
        elif kind == "m":
            self._style = self._styled(codes)

    def _styled(self, codes: list[int]) -> str:
        style = "" if not codes or 0 in codes else self._style
        for code in codes:
            if 30 <= code <= 37 or 90 <= code <= 97:
                style += f"color:{_BRIGHT_BLACK if code == 90 else _COLOURS[code % 10]};"
            elif code in (1, 2):
                style += "font-weight:bold;" if code == 1 else "opacity:.7;"
        return style


def train(home: Path, variables: dict[str, str]) -> str:
    """Train in a pseudo-terminal. Gives what it showed in the middle, as HTML."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    command = [str(SUBMIT), "jobs/train_cnn.py", "--data", "mnist", "--summary", str(home / "summary.json")]
    process = subprocess.Popen(command, cwd=ROOT, env=variables | {"TERM": "xterm-256color"}, stdout=slave, stderr=slave)
    os.close(slave)
    screen, shown = Screen(COLUMNS), []
    screen.write("$ ./convoy train\n")
    with contextlib.suppress(OSError):
        while data := os.read(master, 65536):
            screen.write(data.decode(errors="replace"))
            last = next((line for line in reversed(screen.text) if line), "")
            progress = re.search(r"(epoch \d+/)\d+ .* left ", last)
            # Right after an epoch its last progress still stands below its own line.
            if progress and not any(line.startswith(progress[1]) for line in screen.text):
                shown.append(screen.as_html())
    os.close(master)
    if process.wait() != 0 or not shown:
        raise SystemExit("\n".join([*screen.text, "the training failed, or showed no progress"]))
    return shown[int(_SHARE * len(shown))]


@contextlib.contextmanager
def server(home: Path, variables: dict[str, str]) -> Iterator[str]:
    """The address of MLflow's pages on the runs of a home folder."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [str(Path(sys.executable).with_name("mlflow")), "server", "--backend-store-uri", f"sqlite:///{home}/mlflow.db"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    output = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=home, env=variables, stdout=output, stderr=output, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
                break
            if time.monotonic() > deadline:
                raise SystemExit("MLflow does not answer")
            time.sleep(0.3)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(20)


def photograph_terminal(content: str, folder: Path) -> None:
    page, picture = folder / "terminal.html", PICTURES / "progress.png"
    page.write_text(_PAGE.format(content), encoding="utf-8")
    with Browser(width=1045, height=1200) as browser:
        browser.open(page.as_uri())
        browser.screenshot(picture)
        height = int(browser.run("return document.querySelector('pre').offsetHeight"))
    image = Image.open(picture)
    image.crop((0, 0, image.width, height)).save(picture)


def photograph_run(address: str, summary: dict[str, str]) -> None:
    from mlflow import MlflowClient

    experiment = MlflowClient(summary["tracking_uri"]).get_run(summary["run_id"]).info.experiment_id
    with Browser(width=1240, height=1345) as browser:
        browser.open(f"{address}/#/experiments/{experiment}/runs/{summary['run_id']}")
        browser.wait_for("was trained on", "Logged models")
        # MLflow's assistant and its menu leave little room to the run.
        for label in ("Close", "Toggle sidebar"):
            browser.run(f"document.querySelector('button[aria-label=\"{label}\"]')?.click()")
        browser.run("[...document.querySelectorAll('button, a')].find(e => e.innerText === 'Show more')?.click()")
        browser.wait_for("load_model(")
        time.sleep(1)
        browser.screenshot(PICTURES / "run-page.png")


def shrink(picture: Path, width: int, colours: int) -> None:
    image = Image.open(picture).convert("RGB")
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    image.quantize(colours, dither=Image.Dither.NONE).save(picture, optimize=True)
    print(f"{picture.relative_to(ROOT)}: {image.width} x {image.height}, {picture.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the pictures of the README.")
    parser.add_argument("--data", type=Path, help="folder with MNIST's libsvm files")
    options = parser.parse_args()
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        variables = os.environ | {"CONVOY_HOME": str(home), "MLFLOW_DISABLE_TELEMETRY": "true", "SPARK_LOCAL_IP": "127.0.0.1"}
        variables.pop("MLFLOW_TRACKING_URI", None)
        if options.data is not None:
            # Under its usual name, which the pictures show.
            link = home / "dbfs/databricks-datasets/mnist-digits/data-001"
            link.parent.mkdir(parents=True)
            link.symlink_to(options.data.absolute())
            variables["CONVOY_DBFS_ROOT"] = str(home / "dbfs")
        photograph_terminal(train(home, variables), home)
        summary = json.loads((home / "summary.json").read_text())
        with server(home, variables) as address:
            photograph_run(address, summary)
        (figure,) = Path(summary["run_dir"]).rglob(f"{FIGURE}.png")
        (PICTURES / f"{FIGURE}.png").write_bytes(figure.read_bytes())
    shrink(PICTURES / "progress.png", 1045, 32)
    shrink(PICTURES / "run-page.png", 1240, 64)
    shrink(PICTURES / f"{FIGURE}.png", 900, 64)


if __name__ == "__main__":
    main()
