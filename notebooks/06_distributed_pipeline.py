# Databricks notebook source
# MAGIC %md
# MAGIC # Lab 6: the distributed road
# MAGIC
# MAGIC The earlier labs called one function, and a trained network came back. In this lab we walk the road that this function
# MAGIC takes, stop at each station, and look at what lies there:
# MAGIC
# MAGIC | station | what happens | done by |
# MAGIC |---|---|---|
# MAGIC | ingest | text becomes a table | Spark |
# MAGIC | stream | each worker reads its share of the table | Petastorm |
# MAGIC | train | all workers train one network together | Keras and Horovod |
# MAGIC | launch | one Spark stage starts the workers, all or none | Spark's barrier stage |
# MAGIC | track | what happened is written down | MLflow |
# MAGIC
# MAGIC Everything here works the same on a laptop, where two workers are two processes, and on a cluster, where they are on
# MAGIC two machines.

# COMMAND ----------

# DBTITLE 1,Settings
dbutils.widgets.text("data", "mnist", "Data set")
dbutils.widgets.text("epochs", "", "Epochs (empty: what conf/train_cnn.yml says)")
dbutils.widgets.text("workers", "2", "Workers")
dbutils.widgets.text("storage", "", "Folder for tables and runs (empty: the usual one)")
dbutils.widgets.dropdown("again", "no", ["no", "yes"], "Train again where an equal run exists")

# COMMAND ----------

from pipelines.launch import notebook

config = notebook.configuration(
    "conf/train_cnn.yml",
    {
        "data.dataset": dbutils.widgets.get("data"),
        "training.epochs": dbutils.widgets.get("epochs"),
        "launch.workers": dbutils.widgets.get("workers"),
    },
    storage=dbutils.widgets.get("storage"),
)
workers = config.launch.workers
table = notebook.open_table(config)

# COMMAND ----------

# MAGIC %md
# MAGIC ## From text to a table
# MAGIC
# MAGIC The source is libsvm text: a line per image, the label first, then `index:value` for every pixel that is not zero. It
# MAGIC is easy to read and slow to parse, so Spark parses it once. Many tasks each take a piece of the file, check every
# MAGIC line, and write Parquet. Here is the start of the first line, as Spark sees the text:

# COMMAND ----------

from pipelines.system import paths

source = table.manifest.sources[0]
line = spark.read.text(paths.to_spark(source.uri)).first().value
print(f"{source.uri}: {source.num_bytes:,} bytes, {source.rows:,} rows")
print(line[:150], "...")

# COMMAND ----------

# MAGIC %md
# MAGIC And here is what became of it. `image` holds the pixels as bytes, `label` the class, `split` tells the three kinds of
# MAGIC rows apart. It is plain Parquet: anything can read it, not just this project.

# COMMAND ----------

from pyspark.sql import functions as F

rows = spark.read.parquet(paths.to_spark(table.uri))
display(rows.groupBy("label").pivot("split", ["train", "validation", "test"]).count().orderBy("label"))
display(rows.select("label", "split", F.length("image").alias("bytes in image")).limit(3))

# COMMAND ----------

# MAGIC %md
# MAGIC Two things about the table matter for what follows. Its rows were **shuffled** when it was written, by a recorded
# MAGIC seed, because the source might have all zeros first. And it is cut into many files of equal size, each one *row
# MAGIC group*: the smallest piece that Parquet reads at once.

# COMMAND ----------

split = table.manifest.splits["train"]
sizes = [file.rows for file in split.files]
print(f"{split.rows:,} training rows in {len(sizes)} files, the first of {sizes[0]:,} rows, the last of {sizes[-1]:,}")
print(f"digest {table.manifest.digest}: the same source and settings give the same digest, and the table is not written again")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Ranks and shards
# MAGIC
# MAGIC Each worker is a process. They all run the same program, and differ by one number: the **rank**, from 0 to the number
# MAGIC of workers less one. From its rank a worker computes which rows are its own. These are its **shard**. Nobody hands out
# MAGIC rows while the training runs; arithmetic that everybody does the same way is enough.

# COMMAND ----------

import pandas as pd

from pipelines.data.stream.sharding import file_parts, shard, steps_per_epoch

batch_size = config.training.batch_size_per_worker
shards = {rank: shard(split.rows, rank, workers) for rank in range(workers)}
display(
    pd.DataFrame(
        [
            {
                "rank": rank,
                "first row": part.start,
                "last row": part.stop - 1,
                "rows": len(part),
                "from files": len(file_parts(split.files, part)),
            }
            for rank, part in shards.items()
        ]
    )
)
steps = steps_per_epoch(split.rows, workers, batch_size)
print(f"{workers} workers x {batch_size} rows = a global batch of {workers * batch_size}, {steps} steps an epoch")

# COMMAND ----------

# MAGIC %md
# MAGIC The number of **steps** must be the same for all. In each step the workers wait for each other; one that took a step
# MAGIC more than the others would wait for ever. So it is computed before the first epoch, and the few rows that do not fill
# MAGIC a global batch are left out, other ones each time.
# MAGIC
# MAGIC ## Training one network in several places
# MAGIC
# MAGIC Every worker has a whole copy of the network. In each step it takes a batch from its own shard and computes the
# MAGIC gradient. Then all workers compute the mean of their gradients together (an **allreduce**), and all make the same step
# MAGIC with it. Since they began with the same weights, and always make the same step, they keep the same weights, without
# MAGIC ever sending them.
# MAGIC
# MAGIC Why is that right? Because the loss is a mean over rows, and the mean of the means of equal parts is the mean of the
# MAGIC whole. Here is the proof in numbers, for a linear model: the gradient of one batch of 64 rows, against the mean of the
# MAGIC gradients of its two halves.

# COMMAND ----------

import numpy as np

rng = np.random.default_rng(1)
inputs, targets, weights = rng.normal(size=(64, 3)), rng.normal(size=64), rng.normal(size=3)
whole = 2 * inputs.T @ (inputs @ weights - targets) / 64
halves = [2 * inputs[h].T @ (inputs[h] @ weights - targets[h]) / 32 for h in (slice(0, 32), slice(32, 64))]
print("gradient of the whole batch   ", whole)
print("mean of the halves' gradients ", np.mean(halves, axis=0))

# COMMAND ----------

# MAGIC %md
# MAGIC So N workers with batches of B do what one worker with batches of N x B would do. A larger batch gives a less noisy
# MAGIC gradient and fewer steps per epoch, so the **learning rate is multiplied by the number of workers**, after a warm-up
# MAGIC at the start, when the weights change fastest (Goyal et al. 2017, arXiv:1706.02677). That rule is a rule of thumb: it
# MAGIC holds up to a point, and each task has its own.
# MAGIC
# MAGIC Horovod computes the mean so that no worker is a bottleneck: in a ring, everyone passes pieces to a neighbour, and
# MAGIC each worker sends about twice the size of the gradient however many workers there are (Sergeev and Del Balso 2018,
# MAGIC arXiv:1802.05799).
# MAGIC
# MAGIC ## Go
# MAGIC
# MAGIC Spark starts the workers as one *barrier stage*: all tasks at once or none. Each task starts a worker process, they
# MAGIC exchange addresses, and the training begins. When one of them fails, all end, and the reason that is shown is the one
# MAGIC of the worker that failed first.

# COMMAND ----------

run = notebook.train(config, again=dbutils.widgets.get("again") == "yes")

# COMMAND ----------

# MAGIC %md
# MAGIC ## What each rank reported
# MAGIC
# MAGIC Each rank writes what happens to a file of its own, the *spool*. The driver follows the files while the training runs;
# MAGIC that is where the lines above came from. Loss and accuracy are equal on all ranks, because they are summed over all of
# MAGIC them before anyone reports. Times are each rank's own.

# COMMAND ----------

began = run.events[0].time
display(
    pd.DataFrame(
        [
            {
                "seconds": round(event.time - began, 1),
                "rank": event.rank,
                "event": f"epoch {event.values.epoch}" if event.kind == "epoch" else event.kind,
                "train/loss": event.values.metrics["train/loss"] if event.kind == "epoch" else "",
                "epoch_seconds": event.values.metrics["epoch_seconds"] if event.kind == "epoch" else "",
            }
            for event in run.events
            if event.kind in ("plan", "first_step", "epoch", "test", "saved")
        ]
    )
)

# COMMAND ----------

display(run.figure("learning_curves"))

# COMMAND ----------

test, seconds = run.summary.test, run.summary.seconds
print(f"test accuracy {100 * test.accuracy:.2f} %: each of {test.rows:,} rows was tested once, by one of the ranks")
print(f"{run.summary.rows_per_second:,} rows/s in the last epoch, all workers together")
print(", ".join(f"{name} {number:.1f} s" for name, number in vars(seconds).items()))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Is it faster with two?
# MAGIC
# MAGIC Set `workers` to 1 and look. On a laptop, often not: one worker already uses all cores for its matrix products, and
# MAGIC two workers share the same cores and have to talk besides. Starting the workers takes seconds, and this training takes
# MAGIC seconds. More workers pay where they bring cores of their own, and where an epoch takes longer than the talking. That
# MAGIC is what the cluster is for. The laptop is for finding out that everything works.
# MAGIC
# MAGIC ## Try it
# MAGIC
# MAGIC * With `workers` at 1 the global batch is half as large, and so is the learning rate. Are the accuracies still alike?
# MAGIC * Set `training.learning_rate_scaling` to `none` in the settings, with two workers. Which curve changes?
# MAGIC * Stop the training in the middle (*interrupt*, or Ctrl-C). What does the MLflow run say? What is left in the run's
# MAGIC   folder?

# COMMAND ----------

print(f"run {run.summary.run_id} in experiment {config.tracking.experiment}, folder {run.run_dir}")
