"""What the tests run on ranks. Imported there by name."""

import os
import signal
import time


def joint_gradients(features, targets, weights):
    """The averaged gradient of a linear model, each rank seeing its half of the batch."""
    import horovod.tensorflow as hvd
    import tensorflow as tf

    from pipelines.train.distributed import averaged

    hvd.init()
    half = slice(hvd.rank() * len(features) // hvd.size(), (hvd.rank() + 1) * len(features) // hvd.size())
    variable = tf.Variable(weights)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(tf.linalg.matvec(tf.constant(features[half]), variable) - targets[half]))
    result = averaged([tape.gradient(loss, variable)])[0].numpy()
    hvd.shutdown()
    return result


def reduce_for_ever(action):
    """Rank 1 comes to grief in the twentieth step."""
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    step = 0
    while True:
        hvd.allreduce(tf.ones(10))
        step += 1
        if step == 20 and hvd.rank() == 1:
            if action == "raise":
                raise ValueError("deliberate failure")
            os.kill(os.getpid(), signal.SIGKILL)


def sleep_for_ever():
    time.sleep(1000)


def unequal_state():
    import horovod.tensorflow as hvd
    import keras

    from pipelines.train.distributed import check_equal_state

    hvd.init()
    keras.utils.set_random_seed(hvd.rank())
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    check_equal_state(model, optimizer, "before training")


def network_environment():
    return {
        name: os.environ[name] for name in ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_GLOO_IFACE", "HOROVOD_GLOO_RENDEZVOUS_ADDR")
    }
