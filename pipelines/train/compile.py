"""Builds and compiles the configured network."""

from typing import Any

import keras
import tensorflow as tf

from pipelines.config import Config
from pipelines.config.training import Optimizer, TrainingConfig
from pipelines.data.table.schema import Table
from pipelines.errors import ConfigError
from pipelines.models import registry
from pipelines.system import import_path
from pipelines.train.canonical_step import use_canonical_shards
from pipelines.train.collectives.reducers import Reducer
from pipelines.train.custom_loss import with_custom_loss
from pipelines.train.kernels import accelerate, accelerate_optimizer
from pipelines.train.metrics import keras_metrics
from pipelines.train.optim.accumulation import use_accumulation, with_gradient_capture
from pipelines.train.optim.distributed import with_allreduce, with_gradient_checks
from pipelines.train.optim.ema import with_ema
from pipelines.train.optim.loss_scale import BoundedLossScaleOptimizer
from pipelines.train.optim.schedule import PlannedLearningRate
from pipelines.train.optim.step_count import StepLearningRate, new_step_count, with_step_count
from pipelines.train.own_models import allow_unused_metrics, check_trainable, freeze, has_own_step
from pipelines.train.precision import ResolvedPrecision
from pipelines.train.random_layers import check_seeded
from pipelines.train.stopping import use_stop
from pipelines.train.targets import Loss, TargetRules, training_loss
from pipelines.train.worker_setup import WorkerSetup

_OPTIMIZERS: dict[Optimizer, str] = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "lamb": "Lamb"}
_POLICIES: dict[ResolvedPrecision, str] = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


# Before 3.7, Keras makes one large graph of the steps of an execution, and has no metrics of an epoch that ends within one.
LOOPS_IN_EXECUTION = tuple(map(int, keras.__version__.split(".")[:2])) >= (3, 7)


def compile_model(
    config: Config, table: Table, setup: WorkerSetup, rules: TargetRules, reducer: Reducer | None = None
) -> keras.Model:
    """The network, compiled with optimizer, loss and metrics.

    Args:
        config: settings of network and training.
        table: the data set, for the shape of images and the number of classes.
        setup: precision, learning rate and steps per epoch.
        rules: loss and metrics.
        reducer: averages gradients over ranks; None to use Horovod.

    Raises:
        ConfigError: the network cannot be trained with these settings.
    """
    training, custom_loss = config.training, rules.inner
    model = build_model(config, table, setup.precision)
    check_trainable(model, config, setup.precision, custom_loss)
    freeze(model, config.model.frozen)
    if training.custom_kernels:
        accelerate(model, setup.precision)
    if custom_loss is not None:
        model = with_custom_loss(model, custom_loss)
    if has_own_step(model):
        allow_unused_metrics(model)
        if setup.reduction == "several machines":
            # Gradients that it applies separately could come in another order on each rank, which would wait for each other.
            reducer = None
    if training.accumulation_steps > 1:
        use_accumulation(model, training.accumulation_steps)
    if training.canonical_shards:
        if import_path.parse(config.model.name) is not None:
            check_seeded(model, table.manifest.spec.shape, training.canonical_shards)
        use_canonical_shards(model, len(setup.own_shards))
    # Row weights count in metrics, too; class weights are part of the loss, and do not.
    metrics = {"weighted_metrics" if table.manifest.weighted else "metrics": keras_metrics(rules)}
    model.compile(
        optimizer=make_optimizer(training, PlannedLearningRate(setup.learning_rate), model, setup.precision, reducer),
        loss=training_loss(
            custom_loss.function if custom_loss is not None else make_loss(training, rules),
            training,
            rules,
        ),
        **metrics,
        steps_per_execution=min(training.steps_per_execution, setup.steps_per_epoch) if LOOPS_IN_EXECUTION else 1,
        # XLA was 4 to 10 times slower on CPUs, and has no kernel for Horovod's allreduce.
        jit_compile=False,
    )
    model.optimizer.build(model.trainable_variables)
    if model.steps_per_execution > 1:
        use_stop(model, obeys=setup.rank == 0)
    return model


def build_model(config: Config, table: Table, resolved: ResolvedPrecision) -> keras.Model:
    """The configured network; its layers compute in `resolved`, its weights are float32."""
    keras.config.set_dtype_policy(_POLICIES[resolved])
    try:
        return registry.build(config.model.name, table.manifest.spec, table.manifest.num_outputs, config.model.arguments)
    finally:
        keras.config.set_dtype_policy("float32")


def make_optimizer(
    training: TrainingConfig,
    rate: PlannedLearningRate,
    model: keras.Model,
    resolved: ResolvedPrecision = "float32",
    reducer: Reducer | None = None,
) -> keras.optimizers.Optimizer:
    """The configured optimizer, which also averages gradients over ranks and, if configured, keeps an average of the weights.

    Wrapped around the update, from the outside in: gradient capture (for accumulation and canonical shards), the count of steps,
    allreduce, loss scaling, the check for values that are not finite, clipping.

    Raises:
        ConfigError: this version of Keras does not have the optimizer.
    """
    name = training.optimizer
    settings: dict[str, Any] = {"name": name}
    if training.weight_decay or name == "adamw":
        settings["weight_decay"] = training.weight_decay
    if name == "sgd":
        settings |= {"momentum": training.momentum, "nesterov": training.momentum > 0}
    kind = getattr(keras.optimizers, _OPTIMIZERS[name], None)
    if kind is None:
        raise ConfigError(
            f"training.optimizer={name}: Keras {keras.__version__} does not have it yet; choose adamw, or a newer Keras"
        )
    if training.custom_kernels:
        kind = accelerate_optimizer(kind)
    if training.average_decay:
        kind = with_ema(kind, model, training.average_decay)
    kind = with_gradient_checks(kind, training.clip_norm)
    sharded = training.canonical_shards > 0
    steps = new_step_count()
    by_step = StepLearningRate(rate, steps)
    outer = with_allreduce(
        BoundedLossScaleOptimizer if resolved == "float16" else kind,
        training.compression,
        reducer,
        exact=sharded,
        bucket_bytes=training.bucket_bytes,
    )
    outer = with_step_count(outer, steps)
    if training.accumulation_steps > 1 or sharded:
        outer = with_gradient_capture(outer)
    return outer(kind(by_step, **settings)) if resolved == "float16" else outer(by_step, **settings)


def make_loss(training: TrainingConfig, rules: TargetRules) -> Loss:
    """The loss of targets as the network learns them and its outputs: of classes the cross-entropy, in nats."""
    if not isinstance(rules.loss, str):
        return rules.loss
    if rules.task.name == "regression":
        return keras.losses.get(rules.loss)
    if training.label_smoothing == 0:
        return keras.losses.SparseCategoricalCrossentropy()
    num_classes = rules.manifest.num_classes

    def smoothed(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
        # Keras 3.2 casts labels to the network's dtype.
        targets = keras.ops.one_hot(keras.ops.cast(keras.ops.reshape(labels, (-1,)), "int32"), num_classes)
        return keras.losses.categorical_crossentropy(targets, probabilities, label_smoothing=training.label_smoothing)

    return smoothed
