"""Small trainings, submitted as by a user."""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
from support.synthetic import write_libsvm

ROOT = Path(__file__).parents[2]
SUBMIT = Path(sys.executable).parent / "spark-submit"
SETTINGS = ("data.image_shape=[12, 12, 1]", "data.classes=4", "model.name=convnet", "training.batch_size_per_worker=16")


def write_digits(home: Path) -> None:
    """Write the data set of these trainings to `home/digits`."""
    (home / "digits").mkdir()
    write_libsvm(home / "digits" / "digits-train.txt", 600, seed=1)
    write_libsvm(home / "digits" / "digits-test.txt", 100, seed=2)


def command(home: Path, *settings: str) -> list[str]:
    sets = [argument for setting in (*SETTINGS, *settings) for argument in ("--set", setting)]
    job = [str(ROOT / "jobs" / "train_cnn.py"), "--config", str(ROOT / "conf" / "train_cnn.yml")]
    return [str(SUBMIT), "--master", "local[2]", *job, *sets, "--data", str(home / "digits"), "--workers", "2"]


def environment(home: Path, **more: str) -> dict[str, str]:
    own = {
        "CONVOY_HOME": str(home),
        "CONVOY_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    return os.environ | own | more


def submit(home: Path, *settings: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Train to the end. Both streams of the job are merged into stdout."""
    shown = {"capture_output": True, "text": True, "timeout": 200, "check": False}
    return subprocess.run(command(home, *settings), env=environment(home, **more), cwd=home, **shown)


def _end_with_the_tests() -> None:
    """Killed tests must not leave a training running."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


class Training:
    """A running training, which is stopped at the end of the block."""

    job = "train_cnn.py"

    def __init__(self, home: Path, *settings: str, **more: str) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            self.command(home, *settings),
            env=environment(home, **more),
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=_end_with_the_tests,
        )

    @staticmethod
    def command(home: Path, *settings: str) -> list[str]:
        return command(home, *settings)

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes():
            process.kill()
        self._process.kill()
        self._process.communicate(timeout=60)

    def wait_for(self, beginning: str) -> None:
        """Read the output until a line begins with `beginning`."""
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith(beginning):
                return
        raise AssertionError(f"no line begins with {beginning!r}:\n" + "\n".join(self.lines))

    def processes(self) -> list[psutil.Process]:
        """All processes of the job's session: the JVM, the driver, Spark's Python workers, the ranks."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self._process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        return found

    def part(self, sign: str) -> list[psutil.Process]:
        """Processes whose command line contains a text."""
        return [process for process in self.processes() if any(sign in argument for argument in process.cmdline())]

    @property
    def driver(self) -> psutil.Process:
        found = [process for process in self.part(self.job) if process.name() != "java"]
        # A newly forked child briefly has its command line.
        (driver,) = [process for process in found if process.ppid() not in {other.pid for other in found}]
        return driver

    def signal_all(self, signum: signal.Signals) -> None:
        """Signal all processes, as a terminal does on Ctrl-C."""
        os.killpg(self._process.pid, signum)

    def end(self, timeout: float = 60) -> int:
        """Wait for the end of the output and of spark-submit. Returns the exit code."""
        rest, _ = self._process.communicate(timeout=timeout)
        self.lines += rest.splitlines()
        return self._process.returncode
