"""What can follow on a command line of `convoy`. Runs at every press of TAB, so it reads two files and imports little.

Settings, their choices and descriptions are those of conf/schema.json, commands those of the front door's help, and options those
of options.json, which `./convoy schema` writes from the commands' own parsers.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple, Sequence

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = Path(__file__).with_name("options.json")
SCHEMA = ROOT / "conf/schema.json"
# Options that stand for a setting.
_SETTINGS = {"--data": "data.dataset", "--log-level": "launch.log_level"}
_FILES = ("FILE", "FOLDER", "NAME_OR_PATH", "URI", "RUN", "RUN_DIR", "SWEEP", "PATH")
# At these bash cuts a word in pieces, and replaces the last one only.
_BREAKS = re.compile(r".*[=:]", re.S)


class Found(NamedTuple):
    """What completes a word.

    Attributes:
        candidates: whole words that begin like it, each with a description.
        files: whether names of files can follow as well, after the last `=` of the word.
    """

    candidates: dict[str, str]
    files: bool = False


def main(arguments: Sequence[str]) -> None:
    """Print `files` or `none`, then one candidate a line, with its description after a tab.

    Args:
        arguments: the words after `convoy`, the last of which is to be completed; or `--line` and the line up to the cursor, for
            bash, which gets no descriptions.
    """
    if arguments[:1] == ["--line"]:
        words = split(arguments[1])
        found = complete(words)
        begun = _BREAKS.match(words[-1])
        lines = [candidate[begun.end() if begun else 0 :] for candidate in found.candidates]
    else:
        found = complete(arguments)
        lines = [f"{candidate}\t{description}".rstrip() for candidate, description in found.candidates.items()]
    print("\n".join(["files" if found.files else "none", *lines]))


def split(line: str) -> list[str]:
    """The words of a command line after `convoy`; the last may be empty, or begin with a quotation mark."""
    for missing in ("", '"', "'"):
        try:
            # What follows keeps an empty last word.
            words = shlex.split(f"{line}.{missing}")
        except ValueError:
            continue
        words[-1] = words[-1][:-1]
        names = [Path(word).name for word in words]
        return words[names.index("convoy") + 1 :] if "convoy" in names[:-1] else [""]
    return [""]


def complete(words: Sequence[str]) -> Found:
    """What the last of the words can become."""
    *before, word = words or [""]
    if not before:
        return _beginning(word, commands())
    parser = json.loads(OPTIONS.read_text(encoding="utf-8")).get(before[0], {"options": {}, "argument": None})
    options: dict[str, Any] = parser["options"]
    option, equals, _ = word.partition("=")
    if equals and options.get(option, {}).get("metavar"):
        values = _values(before[0], option, options[option])
        return _beginning(word, {f"{option}={value}": text for value, text in values.candidates.items()}, values.files)
    if options.get(before[-1], {}).get("metavar"):
        if options[before[-1]]["metavar"] == "KEY=VALUE":
            return _settings(word)
        values = _values(before[0], before[-1], options[before[-1]])
        return _beginning(word, values.candidates, values.files)
    if word.startswith("-"):
        return _beginning(word, {name: each["help"] for name, each in options.items()})
    values = _values(before[0], "", parser["argument"]) if parser["argument"] else Found({})
    return _beginning(word, values.candidates, values.files)


def commands() -> dict[str, str]:
    """The commands in the front door's help, and what they do."""
    text = (ROOT / "convoy").read_text(encoding="utf-8")
    lines = re.findall(r"^  \./convoy ([\w|]+)(?: [\[A-Z]\S*)* +(\S.*)$", text, re.M)
    return {name: description for names, description in lines for name in names.split("|")}


def _values(command: str, option: str, about: dict[str, Any]) -> Found:
    """All values of an option, or of a command's argument."""
    files = about["metavar"] in _FILES
    if about.get("choices"):
        return Found(dict.fromkeys(about["choices"], ""))
    if option in _SETTINGS:
        return Found(dict.fromkeys(_choices(_setting(_SETTINGS[option])), ""), files)
    if option == "--config":
        return Found(_ready_made("conf"), files)
    if option == "--resume":
        return Found({"latest": "the newest one"}, files)
    if not option and command == "sweep":
        return Found(_ready_made("conf/sweeps"), files)
    if not option and command == "labs":
        return Found({file.stem: _title(file) for file in sorted((ROOT / "notebooks").glob("[0-9]*.py"))})
    return Found({}, files)


def _settings(word: str) -> Found:
    """`section.key=value`: first the section, then the key, then the value."""
    sections = _schema()
    key, equals, _ = word.partition("=")
    if equals:
        section, _, name = key.partition(".")
        setting = sections.get(section, {}).get("properties", {}).get(name, {})
        return _beginning(
            word, {f"{key}={choice}": "" for choice in _choices(setting)}, files=key in ("data.dataset", "data.test_file")
        )
    return _beginning(
        word,
        {
            f"{section}.{name}=": setting.get("description", "")
            for section, about in sections.items()
            for name, setting in about["properties"].items()
            if not setting.get("deprecated")
        },
    )


def _schema() -> dict[str, Any]:
    sections: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))["properties"]
    return sections


def _setting(key: str) -> dict[str, Any]:
    section, _, name = key.partition(".")
    setting: dict[str, Any] = _schema()[section]["properties"][name]
    return setting


def _choices(setting: dict[str, Any]) -> list[str]:
    """The values of a setting that has few, as they are typed."""
    if setting.get("type") == "boolean":
        return ["true", "false"]
    alternatives = [str(value) for each in setting.get("anyOf", ()) for value in _choices(each)]
    return [str(value) for value in (*setting.get("enum", ()), *setting.get("examples", ()), *alternatives)]


def _ready_made(folder: str) -> dict[str, str]:
    """The YAML files of a folder of the clone, with the first sentence of each."""
    return {str(file.relative_to(ROOT)): _title(file) for file in sorted((ROOT / folder).glob("*.yml"))}


def _title(file: Path) -> str:
    """The first sentence of a file's comments; for a notebook, its title."""
    comments = (re.match(r"(?:# MAGIC )?#+ ([^#%].*)", line) for line in file.open(encoding="utf-8"))
    text = next((each.group(1) for each in comments if each and "notebook source" not in each.group(1)), "")
    return re.split(r"[.;] ", text)[0]


def _beginning(word: str, candidates: dict[str, str], files: bool = False) -> Found:
    return Found({each: text for each, text in candidates.items() if each.startswith(word)}, files)
