# Databricks notebook source
# MAGIC %md
# MAGIC # Lab 5: optimizers
# MAGIC
# MAGIC The gradient says in which direction the loss falls. It does not say how far to go. In this lab we train one network
# MAGIC on the same data in the same order, and change only the rule for the step: plain gradient descent, gradient descent
# MAGIC with momentum, and Adam.

# COMMAND ----------

# DBTITLE 1,Settings
dbutils.widgets.text("data", "mnist", "Data set")
dbutils.widgets.text("epochs", "", "Epochs (empty: as in the files in conf/)")
dbutils.widgets.text("workers", "1", "Workers")
dbutils.widgets.text("optimizers", "sgd, momentum, adam", "Which ones to compare")
dbutils.widgets.text("storage", "", "Folder for tables and runs (empty: the default)")
dbutils.widgets.dropdown("again", "no", ["no", "yes"], "Train again even if an identical run exists")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Three rules, on a hill with two directions
# MAGIC
# MAGIC A network has hundreds of thousands of directions. To see what a rule does, two are enough: a long valley that is 100
# MAGIC times as steep across as it is along.
# MAGIC
# MAGIC * **SGD** (stochastic gradient descent): take the gradient of a batch, multiply it by the *learning rate*, and go that
# MAGIC   far downhill. In the valley this is a bad deal. The steep direction limits the rate (any larger, and the steps would
# MAGIC   bounce from wall to wall, higher each time), and at that rate the flat direction takes forever.
# MAGIC * **Momentum**: keep a velocity. Each step adds the new gradient to nine tenths of the old velocity. Across the valley
# MAGIC   the gradients alternate in sign and cancel out; along the valley they add up.
# MAGIC * **Adam**: give every weight its own rate, by dividing its gradient by the root mean square of its recent gradients.
# MAGIC   A direction that has always been flat gets large steps, a steep one small steps (Kingma and Ba 2015,
# MAGIC   arXiv:1412.6980).

# COMMAND ----------

import matplotlib.pyplot as plt
import numpy as np

steepness = np.array([1.0, 100.0])
start = np.array([-4.0, 0.8])
paths = {}
for rule in ("sgd", "momentum", "adam"):
    position, velocity, squares = start.copy(), np.zeros(2), np.zeros(2)
    path = [position]
    for step in range(1, 41):
        gradient = steepness * position
        if rule == "sgd":
            change = -0.018 * gradient
        elif rule == "momentum":
            velocity = 0.9 * velocity - 0.018 * gradient
            change = velocity
        else:
            velocity = 0.9 * velocity + 0.1 * gradient
            squares = 0.999 * squares + 0.001 * gradient**2
            # Both averages start at zero; the divisions correct for that.
            change = -0.3 * (velocity / (1 - 0.9**step)) / np.sqrt(squares / (1 - 0.999**step))
        position = position + change
        path.append(position)
    paths[rule] = np.array(path)

across, along = np.meshgrid(np.linspace(-1, 1, 200), np.linspace(-4.6, 4.6, 200))
height = 0.5 * (steepness[0] * along**2 + steepness[1] * across**2)
figure, panels = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained", sharey=True)
for panel, (rule, path) in zip(panels, paths.items(), strict=True):
    panel.contour(along, across, height, levels=np.geomspace(0.05, 60, 10), colors="#b8b8b8", linewidths=0.7)
    panel.plot(path[:, 0], path[:, 1], marker="o", markersize=3, linewidth=1.2, color="#0072B2")
    panel.plot(0, 0, marker="x", color="#D55E00", markersize=8)
    end = 0.5 * (steepness * path[-1] ** 2).sum()
    panel.set_title(f"{rule}: height {end:.3f} after 40 steps", fontsize=10)
plt.show()

# COMMAND ----------

# MAGIC %md
# MAGIC The start is at a height of 40. Which rule wins here depends on the rates chosen for it, and that is true of networks
# MAGIC too: **a comparison of optimizers is a comparison of optimizers with their learning rates.** What Adam offers is not
# MAGIC so much a better result as a rule that works right away with the rate that everybody uses, 0.001.
# MAGIC
# MAGIC ## On a network
# MAGIC
# MAGIC Now the course's third network, from lab 4. Plain SGD runs with a rate of 0.01, momentum with the same rate and a
# MAGIC momentum of 0.9, and Adam with 0.001. Seed, order of the rows, batch size and everything else are the same.

# COMMAND ----------

from pipelines.launch import notebook

settings = {
    "data.dataset": dbutils.widgets.get("data"),
    "training.epochs": dbutils.widgets.get("epochs"),
    "launch.workers": dbutils.widgets.get("workers"),
    # As in lab 4, so that there are curves to compare.
    "ingest.validation_fraction": 0.1,
}
storage = dbutils.widgets.get("storage")
configs = {
    "sgd": notebook.configuration("conf/convnet_dropout_sgd.yml", settings, storage=storage),
    "momentum": notebook.configuration("conf/convnet_dropout_sgd.yml", settings | {"training.momentum": 0.9}, storage=storage),
    "adam": notebook.configuration("conf/convnet_dropout.yml", settings, storage=storage),
}
chosen = [name.strip() for name in dbutils.widgets.get("optimizers").split(",")]
again = dbutils.widgets.get("again") == "yes"

# COMMAND ----------

runs = {name: notebook.train(configs[name], again=again) for name in chosen}

# COMMAND ----------

from pipelines.track.figures import comparison

display(comparison.draw({name: run.history for name, run in runs.items()}).figure)

# COMMAND ----------

# MAGIC %md
# MAGIC ## Reading the curves
# MAGIC
# MAGIC * **The first epochs.** Adam is usually far ahead after one epoch. Plain SGD needs many epochs to get that far.
# MAGIC * **The last epochs.** Given enough epochs, the curves get closer. On some tasks well-tuned SGD with momentum even
# MAGIC   ends up better on test rows than Adam (Wilson et al. 2017, *The marginal value of adaptive gradient methods in
# MAGIC   machine learning*, arXiv:1705.08292). Stopping all of them after the same few epochs measures speed, not the final
# MAGIC   result.
# MAGIC * **The price.** Momentum keeps one extra number per weight, Adam two. For 600,810 weights Adam's are 5 MB, for a
# MAGIC   billion they are 8 GB.
# MAGIC
# MAGIC The course reports 96 to 97 % for plain SGD after 15 epochs on all of MNIST, against 99.1 % with Adam, and takes that
# MAGIC as a measure of how far optimizers have come. Before you agree, look at momentum, a rule from 1964.

# COMMAND ----------

import pandas as pd

display(
    pd.DataFrame(
        [
            {
                "optimizer": name,
                "rate": run.config.training.base_learning_rate,
                "validation after 1 epoch (%)": 100 * run.history[0]["validation/accuracy"],
                f"after {len(run.history)} (%)": 100 * run.history[-1]["validation/accuracy"],
                "test (%)": 100 * run.summary.test.accuracy,
            }
            for name, run in runs.items()
        ]
    )
)

# COMMAND ----------

# MAGIC %md
# MAGIC ## Try it
# MAGIC
# MAGIC * Give plain SGD a rate of 0.1 (`training.base_learning_rate` in the settings). How much of Adam's lead was due to the
# MAGIC   rate?
# MAGIC * Give Adam a rate of 0.01. What happens, and why does dropout make it worse?
# MAGIC * The rate need not stay constant: `training.schedule` can be `cosine`, `step` or `one_cycle`. This project's default
# MAGIC   recipe, `conf/train_cnn.yml`, raises it to 0.01 and lowers it again, all within three epochs.

# COMMAND ----------

for name, run in runs.items():
    print(f"{name}: run {run.summary.run_id}, folder {run.run_dir}")
