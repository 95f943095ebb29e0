"""Write conf/schema.json, the JSON Schema of all settings, with which editors complete and check configuration files.

It also brings the completion of shells up to date with the commands' options.
"""

import sys
from collections.abc import Sequence

from pipelines import cli
from pipelines.config import json_schema
from pipelines.config.data import NAMED_DATASETS
from pipelines.models.registry import NETWORKS
from tools.completion import collect
from tools.completion.complete import OPTIONS, SCHEMA


def main(arguments: Sequence[str]) -> None:
    parser = cli.Parser(prog="./convoy schema", description="Write conf/schema.json, the JSON Schema of all settings.")
    parser.parse_args(arguments)
    SCHEMA.write_text(text(), encoding="utf-8")
    OPTIONS.write_text(collect.text(), encoding="utf-8")
    print(f"{SCHEMA} written; a configuration file names it: # yaml-language-server: $schema={SCHEMA}")


def text() -> str:
    """The schema as the text of its file, with the data sets and networks that are known by name."""
    return json_schema.text({"data.dataset": NAMED_DATASETS, "model.name": tuple(NETWORKS)})


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
