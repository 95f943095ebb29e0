"""How files are read to evaluate a model on them: as its training read them."""

import dataclasses

import pytest
from PIL import Image
from support.model_infos import MNIST
from support.reported import ReportedLines

from pipelines.config import loader
from pipelines.data.table.schema import ReadingRules
from pipelines.errors import ConfigError
from pipelines.score.evaluate.dataset import check_read_alike, select_rows, with_model_settings

PAIR = dataclasses.replace(MNIST, num_classes=2, labels=(3, 5), class_names=("cat", "dog"), picture_form="picture")


@pytest.fixture
def pets(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("L", (28, 28)).save(tmp_path / "pets" / name / "1.png")
    return tmp_path / "pets"


@pytest.fixture
def text(tmp_path):
    (tmp_path / "a.txt").write_text("3 1:1\n5 2:1\n")
    return tmp_path / "a.txt"


def read_from(source, **rules):
    return dataclasses.replace(PAIR, reading=ReadingRules(source=source, **rules))


def selected(info, location, *settings):
    lines = ReportedLines()
    return select_rows(loader.load(None, [f"data.dataset={location}", *settings]), info, "", "auto", lines), lines


def test_indices_start_where_those_of_the_training_started(text):
    for zero_based in (False, True):
        for settings in ((), ("data.zero_based=true",)):
            selection, lines = selected(read_from("libsvm", zero_based=zero_based), text, *settings)
            assert selection.config.data.zero_based is zero_based
            ignored = ["data.zero_based=true does not apply: model runs:/1/model was trained on indices from 1"]
            assert list(lines) == (ignored if settings and not zero_based else [])
    # Training on pictures says nothing about it.
    assert selected(read_from("pictures"), text, "data.zero_based=true")[0].config.data.zero_based


def test_pictures_are_resized_if_the_training_resized_them_or_the_user_says_so(pets):
    cases = (
        *((read_from("pictures"), (), False), (read_from("pictures"), ("data.resize_pictures=true",), True)),
        *((read_from("pictures", resize_pictures=True), (), True), (read_from("libsvm"), (), True)),
        (dataclasses.replace(PAIR, reading=None), (), False),
    )
    for info, settings, resized in cases:
        assert selected(info, pets, *settings)[0].config.data.resize_pictures is resized


def test_pictures_are_converted_for_a_model_that_was_trained_on_mnists_format(pets):
    selection, lines = selected(dataclasses.replace(PAIR, picture_form="digit"), pets)
    assert selection.source.as_digits
    assert "the pictures are converted to MNIST's format" in lines[-1]
    assert not selected(PAIR, pets)[0].source.as_digits
    keys = [source.key_settings(selection.config.data) for source in (selection.source, selected(PAIR, pets)[0].source)]
    assert keys[0] != keys[1]


def test_configured_names_are_matched_with_those_of_the_model_or_refused(text, pets):
    for location in (text, pets):
        data = selected(PAIR, location)[0].config.data
        assert (data.labels, data.class_names) == ((3, 5), ("cat", "dog"))
        data = selected(PAIR, location, "data.class_names=[dog, cat]", "data.classes=2")[0].config.data
        assert (data.labels, data.class_names) == ((3, 5), ("dog", "cat"))
        for setting, message in (
            (
                "data.class_names=[dog, cow]",
                r"data\.class_names=.*: must be the names that model .* knows, .*: cat, dog",
            ),
            ("data.labels=[0, 1]", r"data\.labels=\[0, 1\]: must be those of model .*, \[3, 5\]"),
        ):
            with pytest.raises(ConfigError, match=message):
                selected(PAIR, location, "data.classes=2", setting)
    # For predictions they do not matter.
    config = loader.load(None, ["data.classes=2", "data.class_names=[dog, cow]"])
    assert with_model_settings(config.data, PAIR).class_names == ("cat", "dog")


def test_models_that_read_the_same_files_differently_are_not_compared(text, pets):
    zero_based, digit = read_from("libsvm", zero_based=True), dataclasses.replace(PAIR, picture_form="digit")
    for location, other, message in (
        (text, zero_based, "only one of the models .* was trained on indices that start at 0"),
        (pets, digit, "only one of the models .* was trained on the pictures converted to MNIST's format"),
    ):
        selection, _ = selected(PAIR, location)
        check_read_alike(selection, [PAIR])
        check_read_alike(selection, [PAIR, PAIR])
        with pytest.raises(ConfigError, match=message):
            check_read_alike(selection, [PAIR, other])
    check_read_alike(selected(PAIR, pets)[0], [PAIR, zero_based])
