"""A one-machine cluster that runs the tasks of a job, for the stub of a Databricks workspace."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


class TaskCluster:
    """Runs tasks in `guest_cluster`, in a Python with these wheels and with `variables` in its environment."""

    def __init__(self, home: Path, settings: dict[str, Any], wheels: list[Path], variables: dict[str, str]) -> None:
        python = _clean_python(home / "cluster", wheels)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "JAVA_HOME": os.environ["JAVA_HOME"],
            "PYSPARK_PYTHON": str(python),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "DATABRICKS_RUNTIME_VERSION": settings["spark_version"].partition(".x")[0],
            **settings.get("spark_env_vars", {}),
            **variables,
        }
        program = Path(__file__).parent / "guest_cluster.py"
        self._log = (home / "cluster.log").open("w")
        self._process = subprocess.Popen(
            [str(python), "-I", str(program), json.dumps(settings.get("spark_conf", {}))],
            env=environment,
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def run(self, file: Path, parameters: list[str], log: Path) -> str:
        """Run one task. Returns the reason of its failure; empty on success."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"file": str(file), "parameters": parameters, "log": str(log)}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        return json.loads(answer)["error"] if answer else "The Python process exited; a task must not end it"

    def end(self) -> None:
        self._process.kill()
        self._process.wait(30)
        self._log.close()


def _clean_python(folder: Path, wheels: list[Path]) -> Path:
    """A Python with this one's packages, and with these wheels in place of the checkout."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    (packages,) = folder.glob("lib/python3.*/site-packages")
    # Python does not process .pth files in a folder added this way, so the checkout's own is not read.
    (packages / "runtime.pth").write_text(str(Path(sys.executable).parents[1] / packages.relative_to(folder)))
    python = folder / "bin/python"
    install = [str(Path(sys.executable).parent / "uv"), "pip", "install", "--quiet", "--no-deps", "--offline"]
    subprocess.run([*install, "--python", str(python), *map(str, wheels)], check=True, timeout=60)
    return python
