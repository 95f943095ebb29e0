"""An interactive shell in a terminal, to type into."""

import os
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

SHELLS = ("bash", "zsh")
_SHOW_LINE = "\x18"
_START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
_PREPARE = {
    # All candidates at the first TAB, and Ctrl-X shows the line as it is.
    "bash": "PS1=; bind 'set show-all-if-ambiguous on' 'set completion-query-items 0' 'set page-completions off' "
    "'set enable-bracketed-paste off' 'set bell-style none'; bind -x '\"\\C-x\":echo \"<$READLINE_LINE>\"'",
    "zsh": "PS1=; unsetopt zle_bracketed_paste prompt_sp beep; LISTMAX=0; autoload -Uz compinit; compinit -u -D; "
    "show() { print -r -- \"<$BUFFER>\" }; zle -N show; bindkey '^X' show; bindkey '^I' complete-word",
}


class Shell:
    """`complete` types a line and TAB."""

    def __init__(self, name, folder, *commands):
        assert shutil.which(name), f"{name} is not installed; ./convoy test installs it"
        self._terminal, terminal = os.openpty()
        variables = {"TERM": "dumb", "COLUMNS": "200", "LINES": "500", "HOME": str(folder)}
        # The interpreter of the tests starts faster than one that is looked for.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self._shell = subprocess.Popen(
            _START[name],
            cwd=folder,
            env={**os.environ, **variables, "PATH": path},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)
        for command in (_PREPARE[name], *commands):
            self._type(f"{command}\n")
        self._type("echo rea''dy\n")
        self._read("ready")

    def complete(self, line):
        """The line after TAB, and the words that the shell has shown."""
        self._type(f"\x15{line}\t{_SHOW_LINE}")
        shown = self._read(f"<{re.escape(line[: line.rfind(' ') + 1])}[^<>]*>")
        completed = re.findall("<([^<>]*)>", shown)[-1]
        return completed, re.findall(r"[^\s]+", shown.replace(f"<{completed}>", " "))

    def close(self):
        self._shell.kill()
        self._shell.wait()
        os.close(self._terminal)

    def _type(self, text):
        os.write(self._terminal, text.encode())

    def _read(self, pattern, seconds=30):
        text, end = "", time.monotonic() + seconds
        while not re.search(pattern, text):
            ready, _, _ = select.select([self._terminal], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {pattern} in {text!r}"
            text += os.read(self._terminal, 65536).decode(errors="replace")
        return text


def loaded(name, folder, root):
    """A shell that has Convoy's completion, in a folder."""
    return Shell(name, folder, f'eval "$({shlex.quote(str(root / "convoy"))} completion {name})"')
