# Databricks notebook source
# MAGIC %md
# MAGIC # Lab 3: a second layer of kernels
# MAGIC
# MAGIC A kernel of 4 x 4 sees edges. A digit is made of curves, crossings and loops, and those are made of edges. So let us
# MAGIC put a second layer of kernels on top of the feature maps of the first. In this lab we do that, and then ask a question
# MAGIC that is asked too rarely: is the second network *really* better, or were we just lucky?

# COMMAND ----------

# DBTITLE 1,Settings
dbutils.widgets.text("data", "mnist", "Data set")
dbutils.widgets.text("epochs", "", "Epochs (empty: as in the files in conf/)")
dbutils.widgets.text("workers", "1", "Workers")
dbutils.widgets.text("storage", "", "Folder for tables and runs (empty: the default)")
dbutils.widgets.dropdown("again", "no", ["no", "yes"], "Train again even if an identical run exists")

# COMMAND ----------

from pipelines.launch import notebook

settings = {
    "data.dataset": dbutils.widgets.get("data"),
    "training.epochs": dbutils.widgets.get("epochs"),
    "launch.workers": dbutils.widgets.get("workers"),
}
storage = dbutils.widgets.get("storage")
again = dbutils.widgets.get("again") == "yes"
one = notebook.configuration("conf/convnet.yml", settings, storage=storage)
two = notebook.configuration("conf/convnet_two.yml", settings, storage=storage)

# COMMAND ----------

# MAGIC %md
# MAGIC ## Seeing more by looking twice
# MAGIC
# MAGIC A value in the second feature map is computed from 4 x 4 values of the first, and each of those from 4 x 4 pixels,
# MAGIC each time shifted by one. Together they cover 7 x 7 pixels: the *receptive field*. With every layer it grows by the
# MAGIC kernel size minus one, and after each pooling it grows twice as fast.
# MAGIC
# MAGIC There is another difference. The first layer's kernels have a single channel of weights, for grey. The second layer's
# MAGIC kernels have one channel for each feature map below them: a second-layer kernel can look for "a left edge here *and* a
# MAGIC top edge there".

# COMMAND ----------

field = [1]
for kernel in (4, 4):
    field.append(field[-1] + kernel - 1)
print(" -> ".join(f"{size} x {size}" for size in field), "pixels")

first = {"kernels": 8 * (4 * 4 * 1 + 1), "dense": 12 * 12 * 8 * 128 + 128, "outputs": 128 * 10 + 10}
second = {
    "kernels": 8 * (4 * 4 * 1 + 1) + 8 * (4 * 4 * 8 + 1),
    "dense": 11 * 11 * 8 * 128 + 128,
    "outputs": 128 * 10 + 10,
}
for name, parts in (("one layer", first), ("two layers", second)):
    print(f"{name:<11}", ", ".join(f"{part} {number:,}" for part, number in parts.items()), f"= {sum(parts.values()):,} weights")

# COMMAND ----------

# MAGIC %md
# MAGIC The deeper network has *fewer* weights. The second convolution shrinks the feature maps before they reach the dense
# MAGIC layer, which holds most of the weights. Depth is not the same as size.
# MAGIC
# MAGIC Now we train both, each as configured in `conf/`. If there already is a run with exactly these settings, for example
# MAGIC from lab 2, it is reused.

# COMMAND ----------

runs = {"one layer": notebook.train(one, again=again), "two layers": notebook.train(two, again=again)}

# COMMAND ----------

from pipelines.track.figures import comparison

display(comparison.draw({name: run.history for name, run in runs.items()}).figure)

# COMMAND ----------

# MAGIC %md
# MAGIC The curves may have different lengths: the course trains the two networks for 8 and 15 epochs. Compare them at the
# MAGIC same epoch before you compare their ends.
# MAGIC
# MAGIC ## Better, or lucky?
# MAGIC
# MAGIC An accuracy is a count: this many of that many test rows were right. Like any count of random events it has an error.
# MAGIC If the true rate is *p* and there are *n* rows, the standard error is the square root of *p* (1 - *p*) / *n*. For 98.6
# MAGIC % of 10,000 rows that is 0.12 points, so two networks half a point apart may well be different, and a difference of
# MAGIC 0.1 points tells us nothing.
# MAGIC
# MAGIC But both networks classified the *same* rows, and most rows are easy for both. Those say nothing about which one is
# MAGIC better. What counts are the rows that only one of them got right. If the two were equally good, each such row would be
# MAGIC a coin toss. McNemar's test asks how likely it is that fair coin tosses come out at least as one-sided as what we see
# MAGIC (McNemar 1947; for classifiers, Dietterich 1998).

# COMMAND ----------

import numpy as np

from pipelines.tasks.mcnemar import PairedCounts

right = {name: run.predictions.probabilities.argmax(axis=1) == run.predictions.labels for name, run in runs.items()}
a, b = right.values()
pairs = PairedCounts(
    both=int(np.sum(a & b)), only_first=int(np.sum(a & ~b)), only_second=int(np.sum(~a & b)), neither=int(np.sum(~a & ~b))
)
for name, hits in right.items():
    error = np.sqrt(hits.mean() * (1 - hits.mean()) / len(hits))
    print(f"{name:<11} {100 * hits.mean():.2f} % of {len(hits):,} test rows, standard error {100 * error:.2f} points")
print(f"only the first gets {pairs.only_first} rows right, only the second {pairs.only_second}")
print(f"fair coin tosses would be at least as one-sided with probability {pairs.p_value:.2g}")

# COMMAND ----------

# MAGIC %md
# MAGIC A small probability (by convention, below 0.05) says that chance is a poor explanation for the difference *between
# MAGIC these two trained networks*. It does not say that one *architecture* is better than the other: train each of them
# MAGIC again with another seed, and both numbers change. To compare architectures, compare several seeds of each.
# MAGIC
# MAGIC ## The first layer, again
# MAGIC
# MAGIC The first layer of the deeper network no longer feeds the dense layer directly. Its kernels serve the second layer.

# COMMAND ----------

display(runs["two layers"].figure("first_layer"))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Try it
# MAGIC
# MAGIC * Look at the training and validation curves of the deeper network after its best epoch. Which of the two networks
# MAGIC   overfits more?
# MAGIC * Set `epochs` to 8 for both. Is the second network still ahead?
# MAGIC * Write a network with a third convolution: copy `pipelines/models/convnet_two.py`, and add a line to
# MAGIC   `pipelines/models/registry.py`. What is its receptive field?

# COMMAND ----------

for name, run in runs.items():
    print(f"{name}: run {run.summary.run_id}, folder {run.run_dir}")
