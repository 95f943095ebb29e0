"""The same training by Keras alone, in one process: what a training by Convoy must equal."""

import numpy as np

from pipelines.config import loader
from pipelines.data.stream.batches import Shard, epoch_order, load
from pipelines.data.stream.sharding import RowRange, shard
from pipelines.train.compile import build_model
from pipelines.train.targets import class_weights


def by_keras(table, settings, *, epochs, workers=1, loss=""):
    """Network and mean loss of each epoch of `fit` on the global batches of as many workers, with Keras' own loss and optimizer.

    The network's outputs are those of the task in source units, as of a logged model.
    """
    import keras

    config = loader.load(None, settings)
    training, manifest = config.training, table.manifest
    is_regression = manifest.spec.task == "regression"
    parts = load(Shard(table=table, split="train", rows=RowRange(0, manifest.rows("train")), stream=config.stream))
    inputs, targets, *weights = parts
    if is_regression:
        targets = (targets - np.float32(manifest.target_means)) / np.float32(manifest.target_deviations)
    by_class = class_weights(training, manifest)
    per_row = np.ones(len(inputs), np.float32) if not weights else weights[0]
    per_row = per_row if by_class is None else per_row * by_class[targets]
    keras.utils.set_random_seed(training.seed)
    model = build_model(config, table, "float32")
    model.compile(
        optimizer=keras.optimizers.Adam(training.base_learning_rate),
        loss=loss or ("mean_squared_error" if is_regression else "sparse_categorical_crossentropy"),
    )
    losses = []
    for epoch in range(epochs):
        rows = np.concatenate(_global_batches(manifest.rows("train"), workers, training, epoch))
        # In order: each global batch is the batches of all workers.
        history = model.fit(
            inputs[rows],
            targets[rows],
            sample_weight=per_row[rows],
            batch_size=workers * training.batch_size_per_worker,
            epochs=1,
            shuffle=False,
            verbose=0,
        )
        losses.append(history.history["loss"][0])
    if is_regression:
        scale = keras.layers.Rescaling(list(manifest.target_deviations), list(manifest.target_means))
        model = keras.Model(model.inputs, scale(model.outputs[0]))
    return model, losses


def _global_batches(total, workers, training, epoch):
    """Row numbers of each step."""
    size, shards = training.batch_size_per_worker, [shard(total, rank, workers) for rank in range(workers)]
    steps = min(len(rows) for rows in shards) // size
    orders = [
        rows.start + epoch_order(len(rows), training.seed * workers + rank, epoch)[: steps * size].reshape(steps, size)
        for rank, rows in enumerate(shards)
    ]
    return [np.concatenate([order[step] for order in orders]) for step in range(steps)]
