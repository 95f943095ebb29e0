"""Completion of the front door's commands, in real shells."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from support.typing_shell import SHELLS, loaded

from tools.completion import complete
from tools.completion.complete import main, split

ROOT = Path(__file__).parents[2]
# What is typed, and what TAB makes of it.
COMPLETED = [
    ("./convoy trai", "./convoy train "),
    ("./convoy train --work", "./convoy train --workers "),
    ("./convoy train --config conf/champ", "./convoy train --config conf/champion.yml "),
    ("./convoy train --set training.optim", "./convoy train --set training.optimizer="),
    ("./convoy train --set training.optimizer=s", "./convoy train --set training.optimizer=sgd "),
    ("./convoy train --workers 2 --data fash", "./convoy train --workers 2 --data fashion-mnist "),
    ("./convoy train --set data.dataset=ro", "./convoy train --set data.dataset=rows.libsvm "),
    ("./convoy train --resume la", "./convoy train --resume latest "),
    ("./convoy sweep conf/sweeps/cou", "./convoy sweep conf/sweeps/course.yml "),
    ("./convoy evaluate --split val", "./convoy evaluate --split validation "),
]


@pytest.fixture(scope="module", params=SHELLS)
def shell(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    (folder / "rows.libsvm").touch()
    (folder / "convoy").symlink_to(ROOT / "convoy")
    opened = loaded(request.param, folder, ROOT)
    yield opened
    opened.close()


@pytest.mark.parametrize(("typed", "completed"), COMPLETED)
def test_tab_completes(shell, typed, completed):
    assert shell.complete(typed)[0] == completed


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("./convoy ", {"train", "sweep", "score", "doctor", "help"}),
        ("./convoy train --", {"--config", "--set", "--workers", "--resume"}),
        ("./convoy train --set training.schedule=", {"constant", "cosine", "step", "one_cycle"}),
        ("./convoy train --set launch.sta", {"stall_warning_seconds=", "start_timeout_seconds="}),
    ],
)
def test_tab_shows_what_can_follow(shell, typed, shown):
    words = {word.rpartition(".")[2].rpartition("=")[2] or word.rpartition(".")[2] for word in shell.complete(typed)[1]}
    assert shown <= words


def test_fish_offers_the_same(tmp_path):
    """Fish says what it would offer without a terminal. It adds the blank behind a word by itself."""
    (tmp_path / "rows.libsvm").touch()
    (tmp_path / "convoy").symlink_to(ROOT / "convoy")
    script = "./convoy completion fish | source; for line in $argv; echo line; complete -C $line; end"
    lines = [typed for typed, _ in COMPLETED]
    command = ["fish", "--no-config", "-c", script, *lines]
    # The interpreter of the tests starts faster than one that is looked for.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=True)
    offered = [[line.partition("\t")[0] for line in each.splitlines()] for each in done.stdout.split("line\n")[1:]]
    assert offered == [[completed.split()[-1]] for _, completed in COMPLETED]


def test_a_tab_takes_less_than_a_blink():
    """Seconds of the processor, which other tests cannot prolong."""
    command = [sys.executable, str(ROOT / "convoy"), "complete", "train", "--set", "training.o"]

    def seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.3


def test_completion_needs_no_environment_and_no_library(tmp_path):
    code = (
        f"import runpy, sys; sys.argv = ['convoy', 'complete', 'train', '--set', 'data.']\n"
        f"try: runpy.run_path({str(ROOT / 'convoy')!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    *_, loaded_modules = done.stdout.splitlines()
    assert "data.dataset=" in done.stdout
    assert set(loaded_modules.split()) == {"__main__", "tools"}


def test_every_command_of_the_help_is_offered_with_what_it_does():
    offered = complete.commands()
    assert {"train", "evaluate", "score", "promote", "schema", "completion", "test"} <= set(offered)
    assert offered["doctor"] == "what is installed, what is missing, and what to do about it"
    assert all(offered.values())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("./convoy tra", ["tra"]),
        ("./convoy train ", ["train", ""]),
        ("CONVOY_RUNTIME=dbr-17.3-ml /a/convoy train --set 'data.class_na", ["train", "--set", "data.class_na"]),
        ('convoy train --data "my fi', ["train", "--data", "my fi"]),
        ("./convoy", [""]),
    ],
)
def test_a_line_is_cut_into_words_as_the_shell_does(line, words):
    assert split(line) == words


def test_a_shell_that_is_not_known_is_one_line():
    done = subprocess.run(
        [sys.executable, str(ROOT / "convoy"), "completion", "csh"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "convoy: completion takes the name of a shell: bash, fish, zsh\n"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["train", "--set", "training.augment_flip="], ["training.augment_flip=true", "training.augment_flip=false"]),
        (["train", "--set", "model.name=convnet_b"], ["model.name=convnet_batchnorm"]),
        (["train", "--log-level="], [f"--log-level={level}" for level in ("DEBUG", "INFO", "WARNING", "ERROR")]),
        (["labs", "06"], ["06_distributed_pipeline"]),
        (["score", "--form", ""], ["auto", "digit", "picture"]),
    ],
)
def test_choices_are_offered(words, offered):
    assert list(complete.complete(words).candidates) == offered


def test_words_that_lead_nowhere_complete_to_nothing(capsys):
    for words in (["nonsense", ""], ["train", "--workers", ""], ["train", "--set", "a.b="], ["runs", "--count", "x"], []):
        main(words)
    assert os.linesep.join(["none"] * 4) in capsys.readouterr().out
