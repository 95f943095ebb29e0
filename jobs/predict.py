"""Print label and probability, or numbers, for images and libsvm lines. Needs no Spark.

./convoy predict digit.png digits.txt
"""

import argparse
import json
import sys
from collections.abc import Sequence

from pipelines import cli
from pipelines.score import classifier, flags, model_lookup
from pipelines.score.predict import find_inputs, predict
from pipelines.track.mlflow.follower import default_tracking_uri


def own_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", help="an image, a libsvm file, or a folder of either")
    flags.model(parser)
    flags.form(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with the probability of every class")


def main(arguments: Sequence[str]) -> None:
    request = cli.parse(
        arguments, "Print label and probability, or numbers, for images and libsvm lines.", None, own_flags, reads_data=False
    )
    tracking, options = request.config.tracking, request.options
    info = model_lookup.find(options.model, default_tracking_uri(tracking), tracking.experiment)
    print(f"model {info.uri}", file=sys.stderr)
    count = 0
    note = info.picture_note(options.form)
    if any(file.kind == "picture" for file in find_inputs(options.files)) and note:
        print(note, file=sys.stderr)
    predictions = predict(
        classifier.Classifier(info),
        options.files,
        info.converts_to_digits(options.form),
        resize=info.resizes_pictures(options.form),
        zero_based=info.zero_based(request.config.data.zero_based),
    )
    for prediction in predictions:
        count += 1
        if options.json:
            print(json.dumps(prediction.as_dict()))
        else:
            print(prediction)
    request.write_summary({"model_uri": info.uri, "predictions": count})


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
