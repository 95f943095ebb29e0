"""Command-line flags shared by the jobs that use a trained model."""

import argparse

from pipelines.errors import ConfigError


def model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="URI",
        default="",
        help="runs:/RUN/model, models:/NAME/VERSION, models:/NAME@ALIAS or a folder (default: the newest finished run's model)",
    )


def register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--register", metavar="NAME", default="", help="register the model under this name, with the alias challenger"
    )


def form(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--form",
        choices=("auto", "digit", "picture"),
        default="auto",
        help="convert pictures to MNIST's format, or only resize them (default: as the model was trained)",
    )


def rows(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--table", metavar="FOLDER", default="", help="a table written by ingest, instead of --data")
    parser.add_argument(
        "--split",
        choices=("auto", "train", "validation", "test", "all"),
        default="auto",
        help="rows of the table (default: test; all rows of a single libsvm file)",
    )


def check_rows(options: argparse.Namespace) -> None:
    """Raises ConfigError unless the data are named exactly once: the default data set is rarely what the user means."""
    named = options.data or options.config or any(setting.startswith("data.dataset=") for setting in options.set)
    if options.table and options.data:
        raise ConfigError(f"--table {options.table}: cannot be combined with --data {options.data}; give one of them")
    if not options.table and not named:
        raise ConfigError(
            "--data: must name the data to evaluate on: a data set, a libsvm file or folder; or give --table FOLDER"
        )
