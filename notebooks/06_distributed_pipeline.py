# Databricks notebook source
# MAGIC %md
# MAGIC # Lab 6: the distributed pipeline
# MAGIC
# MAGIC The earlier labs called one function, and a trained network came back. In this lab we follow the pipeline behind that
# MAGIC function, stop at each stage, and look at what it produces:
# MAGIC
# MAGIC | stage | what happens | done by |
# MAGIC |---|---|---|
# MAGIC | ingest | text becomes a table | Spark |
# MAGIC | stream | each worker reads its share of the table | Petastorm |
# MAGIC | train | all workers train one network together | Keras and Horovod |
# MAGIC | launch | one Spark stage starts the workers, all or none | Spark's barrier stage |
# MAGIC | track | what happened is recorded | MLflow |
# MAGIC
# MAGIC Everything here works the same on a laptop, where two workers are two processes, and on a cluster, where they run on
# MAGIC two machines.

# COMMAND ----------

# DBTITLE 1,Settings
dbutils.widgets.text("data", "mnist", "Data set")
dbutils.widgets.text("epochs", "", "Epochs (empty: as in conf/train_cnn.yml)")
dbutils.widgets.text("workers", "2", "Workers")
dbutils.widgets.text("storage", "", "Folder for tables and runs (empty: the default)")
dbutils.widgets.dropdown("again", "no", ["no", "yes"], "Train again even if an identical run exists")

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
# MAGIC The source is libsvm text: one line per image, the label first, then `index:value` for every pixel that is not zero.
# MAGIC It is easy to read but slow to parse, so Spark parses it only once. Many tasks each take a piece of the file, validate
# MAGIC every line, and write Parquet. Here is the beginning of the first line, as Spark sees the text:

# COMMAND ----------

from pipelines.system import paths

source = table.manifest.sources[0]
line = spark.read.text(paths.to_spark(source.uri)).first().value
print(f"{source.uri}: {source.num_bytes:,} bytes, {source.rows:,} rows")
print(line[:150], "...")

# COMMAND ----------

# MAGIC %md
# MAGIC And here is the result. `image` holds the pixels as bytes, `label` the class, and `split` says which of the three sets
# MAGIC a row belongs to. It is plain Parquet: any tool can read it, not just this project.

# COMMAND ----------

from pyspark.sql import functions as F

rows = spark.read.parquet(paths.to_spark(table.uri))
display(rows.groupBy("label").pivot("split", ["train", "validation", "test"]).count().orderBy("label"))
display(rows.select("label", "split", F.length("image").alias("bytes in image")).limit(3))

# COMMAND ----------

# MAGIC %md
# MAGIC Two properties of the table matter for what follows. Its rows were **shuffled** when it was written, with a recorded
# MAGIC seed, because the source might list all zeros first. And it is divided into many files of equal size, each of them one
# MAGIC *row group*: the smallest unit that Parquet reads.

# COMMAND ----------

split = table.manifest.splits["train"]
sizes = [file.rows for file in split.files]
print(f"{split.rows:,} training rows in {len(sizes)} files, the first of {sizes[0]:,} rows, the last of {sizes[-1]:,}")
print(f"digest {table.manifest.digest}: the same source and settings have the same digest, and the table is reused")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Ranks and shards
# MAGIC
# MAGIC Each worker is a process. They all run the same program and differ in one number: the **rank**, from 0 to the number
# MAGIC of workers minus one. From its rank a worker computes which rows are its own: its **shard**. Nobody hands out rows
# MAGIC while the training runs; arithmetic that everybody does the same way is enough.

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
print(f"{workers} workers x {batch_size} rows = a global batch of {workers * batch_size}, {steps} steps per epoch")

# COMMAND ----------

# MAGIC %md
# MAGIC The number of **steps** must be the same for all workers. In each step they wait for each other; a worker that took
# MAGIC one step more than the others would wait forever. So the number is computed before the first epoch, and the few rows
# MAGIC that do not fill a global batch are left out, different ones each time.
# MAGIC
# MAGIC ## Training one network in several places
# MAGIC
# MAGIC Every worker has a complete copy of the network. In each step it takes a batch from its own shard and computes the
# MAGIC gradient. Then all workers together compute the mean of their gradients (an **allreduce**), and each takes the same
# MAGIC step with it. Since they started with the same weights and always take the same steps, their weights stay the same,
# MAGIC without ever being sent.
# MAGIC
# MAGIC Why is that correct? Because the loss is a mean over rows, and the mean of the means of equal parts is the mean of the
# MAGIC whole. Here is a check in numbers, for a linear model: the gradient of one batch of 64 rows, compared with the mean of
# MAGIC the gradients of its two halves.

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
# MAGIC So N workers with batches of size B do the same as one worker with batches of size N x B. A larger batch gives a less
# MAGIC noisy gradient and fewer steps per epoch, so the **learning rate is multiplied by the number of workers**, after a
# MAGIC warm-up at the start, when the weights change fastest (Goyal et al. 2017, arXiv:1706.02677). This is a rule of thumb:
# MAGIC it holds up to a point, which differs from task to task.
# MAGIC
# MAGIC Horovod computes the mean in a way that makes no worker a bottleneck: in a ring, everyone passes pieces to a
# MAGIC neighbour, and each worker sends about twice the size of the gradient, however many workers there are (Sergeev and Del
# MAGIC Balso 2018, arXiv:1802.05799).
# MAGIC
# MAGIC ## Go
# MAGIC
# MAGIC Spark starts the workers as one *barrier stage*: all tasks at once or none. Each task starts a worker process, the
# MAGIC processes exchange addresses, and the training begins. If one of them fails, all of them stop, and the error you see
# MAGIC is that of the worker that failed first.

# COMMAND ----------

run = notebook.train(config, again=dbutils.widgets.get("again") == "yes")

# COMMAND ----------

# MAGIC %md
# MAGIC ## What each rank reported
# MAGIC
# MAGIC Each rank writes its events to a log file of its own. The driver follows these files while the training runs; that is
# MAGIC where the lines above came from. Loss and accuracy are the same on all ranks, because they are summed over all ranks
# MAGIC before any of them reports. Times are each rank's own.

# COMMAND ----------

start = run.events[0].time
display(
    pd.DataFrame(
        [
            {
                "seconds": round(event.time - start, 1),
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
# MAGIC Set `workers` to 1 and see. On a laptop, often not: one worker already uses all cores for its matrix products, and two
# MAGIC workers share the same cores and have to communicate on top of that. Starting the workers takes seconds, and this
# MAGIC training takes seconds. More workers pay off when they bring their own cores, and when an epoch takes longer than the
# MAGIC communication. That is what the cluster is for. The laptop is for making sure that everything works.
# MAGIC
# MAGIC ## Try it
# MAGIC
# MAGIC * With `workers` set to 1 the global batch is half as large, and so is the learning rate. Are the accuracies still
# MAGIC   similar?
# MAGIC * With two workers, set `training.learning_rate_scaling` to `none` in the settings. Which curve changes?
# MAGIC * Stop the training in the middle (*interrupt*, or Ctrl-C). What does the MLflow run say? What is left in the run's
# MAGIC   folder?

# COMMAND ----------

print(f"run {run.summary.run_id} in experiment {config.tracking.experiment}, folder {run.run_dir}")
