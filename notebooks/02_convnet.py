# Databricks notebook source
# MAGIC %md
# MAGIC # Lab 2: a first convolutional network
# MAGIC
# MAGIC The perceptron of lab 1 had to find out for itself that its 784 inputs form a picture. In this lab we build that
# MAGIC knowledge in. The tool is the *convolution*. We make some by hand first, then let a network find its own.

# COMMAND ----------

# DBTITLE 1,Settings
dbutils.widgets.text("data", "mnist", "Data set")
dbutils.widgets.text("epochs", "", "Epochs (empty: what conf/convnet.yml says)")
dbutils.widgets.text("workers", "1", "Workers")
dbutils.widgets.text("storage", "", "Folder for tables and runs (empty: the usual one)")
dbutils.widgets.dropdown("again", "no", ["no", "yes"], "Train again where an equal run exists")

# COMMAND ----------

from pipelines.launch import notebook

config = notebook.configuration(
    "conf/convnet.yml",
    {
        "data.dataset": dbutils.widgets.get("data"),
        "training.epochs": dbutils.widgets.get("epochs"),
        "launch.workers": dbutils.widgets.get("workers"),
    },
    storage=dbutils.widgets.get("storage"),
)
table = notebook.open_table(config)
images, labels = notebook.images(table, "test", 4)

# COMMAND ----------

# MAGIC %md
# MAGIC ## What a convolution is
# MAGIC
# MAGIC Take a small square of weights, the *kernel*. Lay it on the upper left corner of the image, multiply each weight by
# MAGIC the pixel below it, add everything up, and write the sum down. Move the kernel one pixel to the right and do it again;
# MAGIC row by row over the whole image. The sums form a new image, the *feature map*. It is bright where the image looks like
# MAGIC the kernel.
# MAGIC
# MAGIC (Mathematicians flip the kernel first and call the unflipped form cross-correlation. Networks learn their kernels, so
# MAGIC it makes no difference which way round they lie.)
# MAGIC
# MAGIC Below are five kernels made by hand. The first is negative on the left and positive on the right, so it answers where
# MAGIC dark turns into light from left to right: at left edges of strokes. The second does the same from top to bottom. The
# MAGIC third and fourth look for slanted edges, and the last is a plain mean, which blurs.

# COMMAND ----------

import numpy as np

from pipelines.track.figures import first_layer

by_hand = [
    [[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]],
    [[-1, -1, -1], [0, 0, 0], [1, 1, 1]],
    [[-1, -1, 0], [-1, 0, 1], [0, 1, 1]],
    [[0, -1, -1], [1, 0, -1], [1, 1, 0]],
    [[1 / 9] * 3] * 3,
]
kernels = np.array(by_hand, dtype=np.float32).transpose(1, 2, 0)[:, :, None, :]

# All 3 x 3 neighbourhoods of every image, then one weighted sum for each of them and each kernel.
neighbourhoods = np.lib.stride_tricks.sliding_window_view(images[..., 0] / 255, (3, 3), axis=(1, 2))
sums = np.einsum("nyxij,ijk->nyxk", neighbourhoods, kernels[:, :, 0, :])
feature_maps = np.maximum(sums, 0)

value_range = table.manifest.image.value_range
display(first_layer.draw(kernels, images, feature_maps, value_range).figure)
print(f"images {images.shape} and kernels {kernels.shape} give feature maps {feature_maps.shape}")

# COMMAND ----------

# MAGIC %md
# MAGIC Three things to notice.
# MAGIC
# MAGIC * A 3 x 3 kernel has 26 places in each row of 28 pixels, so the feature map is 26 x 26. Without a border of zeros
# MAGIC   around the image (*padding*) each convolution takes a little off.
# MAGIC * The same nine weights were used everywhere. An edge is an edge wherever it is, so there is no need to learn it anew
# MAGIC   for each place. This is called *weight sharing*.
# MAGIC * Each sum looks at nine neighbouring pixels and at nothing else. That is the knowledge we built in: near pixels
# MAGIC   belong together.
# MAGIC
# MAGIC ## Pooling
# MAGIC
# MAGIC It rarely matters whether a stroke is at pixel 11 or 12. *Pooling* cuts a feature map into squares of 2 x 2 and keeps
# MAGIC the largest value of each. What is left is a quarter of the numbers, and a digit that moves by a pixel changes them
# MAGIC little.

# COMMAND ----------

count, height, width, depth = feature_maps.shape
pooled = feature_maps.reshape(count, height // 2, 2, width // 2, 2, depth).max(axis=(2, 4))
display(first_layer.draw(kernels, images, pooled, value_range).figure)
print(f"feature maps {feature_maps.shape} become {pooled.shape}")

# COMMAND ----------

# MAGIC %md
# MAGIC ## The network
# MAGIC
# MAGIC The course's first ConvNet (`pipelines/models/convnet.py`) has 8 kernels of 4 x 4, pooling, a layer of 128 units, and
# MAGIC the ten outputs. Let us count its weights.

# COMMAND ----------

parts = {
    "8 kernels of 4 x 4, each with a bias": 8 * (4 * 4 + 1),
    "12 x 12 x 8 values after pooling into 128 units": 12 * 12 * 8 * 128 + 128,
    "128 units into 10 outputs": 128 * 10 + 10,
}
for name, number in parts.items():
    print(f"{number:>8,}  {name}")
print(f"{sum(parts.values()):>8,}  in all")

# COMMAND ----------

# MAGIC %md
# MAGIC The convolution has 136 weights; the perceptron's first layer had 15,700. With them it makes 8 x 25 x 25 = 5,000
# MAGIC numbers out of each image, and that takes 80,000 multiplications: every weight is used at 625 places. In the dense
# MAGIC layer each weight is used once. Convolutions are cheap to store and dear to compute, dense layers the other way round.
# MAGIC
# MAGIC Where the kernels come from is the beauty of it: nobody makes them. They begin as random numbers, and the same
# MAGIC gradient that trains the dense layers trains them too.

# COMMAND ----------

run = notebook.train(config, again=dbutils.widgets.get("again") == "yes")

# COMMAND ----------

# MAGIC %md
# MAGIC ## What it learned to look for
# MAGIC
# MAGIC In the first row are the learned kernels. Red adds light, blue takes it away. Compare them with the ones made by hand:
# MAGIC kernels with a red and a blue side are edge detectors that training found on its own. Below each kernel is where it
# MAGIC answers in four test images.
# MAGIC
# MAGIC Not every kernel must make sense to us. Nothing in the loss asks for that.

# COMMAND ----------

display(run.figure("first_layer"))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Did it pay?
# MAGIC
# MAGIC Compare with the perceptron's curves in lab 1: where they end, and how fast they get there. Then look at the gap
# MAGIC between training and validation. This network has nine times as many weights as the perceptron, so it has more room to
# MAGIC remember single digits. It still does better on digits it has not seen, because most of what it can express through
# MAGIC kernels makes sense for pictures.

# COMMAND ----------

display(run.figure("learning_curves"))

# COMMAND ----------

display(run.figure("worst_mistakes"))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Try it
# MAGIC
# MAGIC * Write another kernel by hand: one that answers to dots, or to the ends of strokes. Which digits does it tell apart?
# MAGIC * Shuffle the pixels as in lab 1, before the hand-made convolution. What do the feature maps look like? A perceptron
# MAGIC   would not mind. Would this network?
# MAGIC * The course reports 98.6 % for this network, trained on all of MNIST. One seed is one draw: set `training.seed` by
# MAGIC   adding it to the settings above, and see how far three seeds lie apart before you call another network better.

# COMMAND ----------

print(f"run {run.summary.run_id}: {100 * run.summary.test.accuracy:.2f} % of {run.summary.test.rows:,} test rows")
