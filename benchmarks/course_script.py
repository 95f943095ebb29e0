"""The baseline that Convoy is compared with: the course's third ConvNet as a plain script.

libsvm text read by scikit-learn, all data in memory, Keras in float32 in one process: batch 128, Adam, 15 epochs by default.
Needs neither Spark nor Horovod. Its last line of output is JSON.

    python benchmarks/course_script.py FOLDER [--epochs 15] [--seed 1]
"""

import argparse
import json
import time
from pathlib import Path

started = time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    import keras
    from keras import layers
    from sklearn.datasets import load_svmlight_files

    files = [str(next(options.folder.glob(f"*{split}*"))) for split in ("train", "test")]
    train_x, train_y, test_x, test_y = load_svmlight_files(files, n_features=784)
    train_x, test_x = (x.toarray().reshape(-1, 28, 28, 1).astype("float32") / 255 for x in (train_x, test_x))
    train_y, test_y = (keras.utils.to_categorical(y, 10) for y in (train_y, test_y))
    loaded = time.monotonic()

    keras.utils.set_random_seed(options.seed)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, (3, 3), activation="relu"),
            layers.Conv2D(32, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Dropout(rate=1 - 0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(rate=1 - 0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    model.fit(train_x, train_y, batch_size=128, epochs=options.epochs, verbose=0)
    fitted = time.monotonic()
    _, accuracy = model.evaluate(test_x, test_y, verbose=0)
    print(
        json.dumps(
            {
                "accuracy": accuracy,
                "load_seconds": loaded - started,
                "fit_seconds": fitted - loaded,
                "rows_per_second": options.epochs * len(train_x) / (fitted - loaded),
            }
        )
    )


if __name__ == "__main__":
    main()
