# Databricks notebook source
# MAGIC %md
# MAGIC # Lab 4: dropout
# MAGIC
# MAGIC The networks of the last labs do better on the digits they were trained on than on others. That gap is what
# MAGIC overfitting is. More data would close it; we have no more. In this lab we close it with a trick that sounds like
# MAGIC sabotage: while the network trains, we keep switching off parts of it at random.

# COMMAND ----------

# DBTITLE 1,Settings
dbutils.widgets.text("data", "mnist", "Data set")
dbutils.widgets.text("epochs", "", "Epochs (empty: what the files in conf/ say)")
dbutils.widgets.text("workers", "1", "Workers")
dbutils.widgets.text("storage", "", "Folder for tables and runs (empty: the usual one)")
dbutils.widgets.dropdown("again", "no", ["no", "yes"], "Train again where an equal run exists")

# COMMAND ----------

from pipelines.launch import notebook

settings = {
    "data.dataset": dbutils.widgets.get("data"),
    "training.epochs": dbutils.widgets.get("epochs"),
    "launch.workers": dbutils.widgets.get("workers"),
    # The course trains its third network on all training rows. We set a tenth aside, because without validation rows overfitting
    # cannot be seen.
    "ingest.validation_fraction": 0.1,
}
storage = dbutils.widgets.get("storage")
again = dbutils.widgets.get("again") == "yes"
without = notebook.configuration("conf/convnet_two.yml", settings, storage=storage)
with_dropout = notebook.configuration("conf/convnet_dropout.yml", settings, storage=storage)

# COMMAND ----------

# MAGIC %md
# MAGIC ## What it does
# MAGIC
# MAGIC A dropout layer has a *rate*. In every training step, for every example, it sets that share of the values it is given
# MAGIC to zero, other ones each time, and multiplies the rest so that their expected sum stays what it was. When the network
# MAGIC is used it does nothing at all.
# MAGIC
# MAGIC Here it is done to images, because one can see it there. In a network it is done to feature maps and hidden units.
# MAGIC From left to right: nothing dropped, then a quarter, half, and three quarters.

# COMMAND ----------

import numpy as np

from pipelines.track.figures import examples

table = notebook.open_table(with_dropout)
images, labels = notebook.images(table, "test", 10)
rng = np.random.default_rng(1)
rates = (0.0, 0.25, 0.5, 0.75)
dropped = np.concatenate([images * (rng.random(images.shape) >= rate) for rate in rates])
display(examples.draw(dropped, np.tile(labels, len(rates)), table.manifest.class_names, table.manifest.image.value_range).figure)

# COMMAND ----------

# MAGIC %md
# MAGIC You can still read most of them with half of the pixels gone. A network that is trained this way must be able to as
# MAGIC well.
# MAGIC
# MAGIC ## Why it helps
# MAGIC
# MAGIC Remembering a particular digit takes a conspiracy of units: this one *and* that one *and* the third fire, so it must
# MAGIC be the four on line 1,204. When any of them may be missing, such a conspiracy does not hold. What survives are
# MAGIC features that are useful on their own, and said by several units at once.
# MAGIC
# MAGIC Another way to see it: each step trains a different, thinner network, all of which share their weights. The network
# MAGIC that is used in the end is something like the average of them, and averages of many opinions err less than single
# MAGIC ones. Both explanations are those of its inventors (Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014,
# MAGIC *Dropout: a simple way to prevent neural networks from overfitting*).
# MAGIC
# MAGIC The course's third network (`pipelines/models/convnet_dropout.py`) has 32 kernels of 3 x 3, twice, and drops three
# MAGIC quarters of the values after pooling and half of the hidden units. It has 600,810 weights, nearly five times as many
# MAGIC as the second network. Dropout is what allows that.

# COMMAND ----------

runs = {
    "two layers, no dropout": notebook.train(without, again=again),
    "more kernels, dropout": notebook.train(with_dropout, again=again),
}

# COMMAND ----------

from pipelines.track.figures import comparison

display(comparison.draw({name: run.history for name, run in runs.items()}).figure)

# COMMAND ----------

# MAGIC %md
# MAGIC ## Reading the curves
# MAGIC
# MAGIC Look at the dashed lines (training) against the solid lines (validation) of each colour.
# MAGIC
# MAGIC * **Without dropout** the training loss goes on towards zero while the validation loss stays behind: the gap of lab 1.
# MAGIC * **With dropout** it looks wrong at first: the network seems to do *better* on digits that it has never seen. That is
# MAGIC   no mistake. The training numbers are measured during training, with three quarters and half of the values switched
# MAGIC   off. The validation numbers are measured with everything on.
# MAGIC * **The price** is time. Each step sees a crippled network, so learning takes more epochs.
# MAGIC
# MAGIC And a word of caution. These two networks differ in two things: dropout, and the number and size of kernels. The gap
# MAGIC is the work of dropout; how much of the *accuracy* is, this comparison cannot tell. A fair experiment changes one
# MAGIC thing at a time: see the first exercise.

# COMMAND ----------

import pandas as pd

display(
    pd.DataFrame(
        [
            {
                "network": name,
                "training, last epoch (%)": 100 * run.history[-1]["train/accuracy"],
                "validation, last epoch (%)": 100 * run.history[-1]["validation/accuracy"],
                "lowest validation loss": min(epoch["validation/loss"] for epoch in run.history),
                "in epoch": run.summary.best_epoch,
                "test (%)": 100 * run.summary.test.accuracy,
                "seconds": sum(epoch["epoch_seconds"] for epoch in run.history),
            }
            for name, run in runs.items()
        ]
    )
)

# COMMAND ----------

# MAGIC %md
# MAGIC ## What is left
# MAGIC
# MAGIC The digits that this network still gets wrong while it is sure. At 99 % many of them are hard for people too.

# COMMAND ----------

display(runs["more kernels, dropout"].figure("worst_mistakes"))

# COMMAND ----------

# MAGIC %md
# MAGIC How sure may it be? A network that says 90 % should be right nine times in ten when it says so. The figure below checks
# MAGIC that. Modern networks tend to be surer than they should be (Guo et al. 2017, *On calibration of modern neural networks*,
# MAGIC arXiv:1706.04599). Is this one?

# COMMAND ----------

display(runs["more kernels, dropout"].figure("calibration"))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Try it
# MAGIC
# MAGIC * The fair experiment: copy `pipelines/models/convnet_dropout.py` to a file of your own with both rates at 0, add a
# MAGIC   line to `pipelines/models/registry.py`, and train it with these settings. Now the two differ in dropout alone.
# MAGIC * The course wrote its rates as `1 - 0.25` and `1 - 0.5`, from a time when the argument named the share to *keep*.
# MAGIC   Many who copied the network drop a quarter after pooling instead of three quarters. Which is better here?
# MAGIC * Set `data` to `mnist-5k`. Is dropout worth more, or less, where there is less data?

# COMMAND ----------

for name, run in runs.items():
    print(f"{name}: run {run.summary.run_id}, folder {run.run_dir}")
