"""Writes tumours.libsvm as Spark does, a folder of parts, with labels -1 and +1 and real values: as in LIBSVM's collection."""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import dump_svmlight_file, load_breast_cancer


def main(folder):
    values, targets = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(1).permutation(len(values))
    for split, rows in (("train", order[:400]), ("test", order[400:])):
        parts = Path(folder) / split
        parts.mkdir(parents=True)
        (parts / "_SUCCESS").touch()
        for number, part in enumerate(np.array_split(rows, 3)):
            dump_svmlight_file(values[part], 2 * targets[part] - 1, str(parts / f"part-{number:05d}"), zero_based=False)
            (parts / f".part-{number:05d}.crc").write_bytes(b"crc")


if __name__ == "__main__":
    main(sys.argv[1])
