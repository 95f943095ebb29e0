# Databricks notebook source
# MAGIC %md
# MAGIC # Lab 4: dropout
# MAGIC
# MAGIC The networks of the previous labs do better on the digits they were trained on than on others. That gap is
# MAGIC overfitting. More data would close it, but we have no more. In this lab we close it with a trick that sounds like
# MAGIC sabotage: while the network trains, we keep switching off random parts of it.

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
    # The course trains its third network on all training rows. We hold out a tenth, because without validation rows overfitting
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
# MAGIC A dropout layer has a *rate*. In every training step, for every example, it sets that fraction of its inputs to zero,
# MAGIC different ones each time, and scales up the rest so that their expected sum stays the same. When the network is used
# MAGIC for prediction, the layer does nothing at all.
# MAGIC
# MAGIC Here we apply it to images, where you can see the effect. In a network it is applied to feature maps and hidden units.
# MAGIC Row by row: nothing dropped, then a quarter, half, and three quarters.

# COMMAND ----------

import numpy as np

from pipelines.track.figures import examples

table = notebook.open_table(with_dropout)
images, labels = notebook.images(table, "test", 10)
rng = np.random.default_rng(1)
rates = (0.0, 0.25, 0.5, 0.75)
dropped = np.concatenate([images * (rng.random(images.shape) >= rate) for rate in rates])
display(examples.draw(dropped, np.tile(labels, len(rates)), table.manifest.class_names, table.manifest.spec.value_range).figure)

# COMMAND ----------

# MAGIC %md
# MAGIC You can still read most of them with half of the pixels gone. A network trained this way has to manage it as well.
# MAGIC
# MAGIC ## Why it helps
# MAGIC
# MAGIC Memorizing a particular digit takes a conspiracy of units: this one *and* that one *and* a third one fire, so it must
# MAGIC be the four on line 1,204. If any of them may be missing, such a conspiracy falls apart. What survives are features
# MAGIC that are useful on their own and represented by several units at once.
# MAGIC
# MAGIC Another way to see it: each step trains a different, thinner network, and all of these networks share their weights.
# MAGIC The final network is something like their average, and an average of many opinions is wrong less often than a single
# MAGIC one. Both explanations are its inventors' own (Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014,
# MAGIC *Dropout: a simple way to prevent neural networks from overfitting*).
# MAGIC
# MAGIC The course's third network (`pipelines/models/convnet_dropout.py`) has two layers of 32 kernels of 3 x 3, and drops
# MAGIC three quarters of the values after pooling and half of the hidden units. It has 600,810 weights, nearly five times as
# MAGIC many as the second network. Dropout is what makes that possible.

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
# MAGIC Compare the dashed line (training) with the solid line (validation) of each colour.
# MAGIC
# MAGIC * **Without dropout** the training loss keeps heading towards zero while the validation loss stays behind: the gap of
# MAGIC   lab 1.
# MAGIC * **With dropout** the curves look wrong at first: the network seems to do *better* on digits that it has never seen.
# MAGIC   That is no mistake. The training numbers are measured during training, with three quarters and half of the values
# MAGIC   switched off. The validation numbers are measured with everything on.
# MAGIC * **The price** is time. Each step trains a crippled network, so learning takes more epochs.
# MAGIC
# MAGIC And a word of caution. These two networks differ in two things: dropout, and the number and size of the kernels.
# MAGIC Dropout closes the gap; how much it contributes to the *accuracy*, this comparison cannot tell. A fair experiment
# MAGIC changes one thing at a time: see the first exercise.

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
# MAGIC These are the digits that the network still gets wrong with confidence. At 99 % many of them are hard for people too.

# COMMAND ----------

display(runs["more kernels, dropout"].figure("worst_mistakes"))

# COMMAND ----------

# MAGIC %md
# MAGIC Is its confidence justified? When a network says 90 %, it should be right nine times out of ten. The figure below
# MAGIC checks that. Modern networks tend to be overconfident (Guo et al. 2017, *On calibration of modern neural networks*,
# MAGIC arXiv:1706.04599). Is this one?

# COMMAND ----------

display(runs["more kernels, dropout"].figure("calibration"))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Try it
# MAGIC
# MAGIC * The fair experiment: copy `pipelines/models/convnet_dropout.py` to a file of your own, set both rates to 0, add a
# MAGIC   line to `pipelines/models/registry.py`, and train it with these settings. Now the two networks differ only in
# MAGIC   dropout.
# MAGIC * The course wrote its rates as `1 - 0.25` and `1 - 0.5`, from a time when the argument was the fraction to *keep*.
# MAGIC   Many people who copied the network drop a quarter after pooling instead of three quarters. Which is better here?
# MAGIC * Set `data` to `mnist-5k`. Does dropout help more or less when there is less data?

# COMMAND ----------

for name, run in runs.items():
    print(f"{name}: run {run.summary.run_id}, folder {run.run_dir}")
