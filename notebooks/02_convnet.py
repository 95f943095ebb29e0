# Databricks notebook source
# MAGIC %md
# MAGIC # Lab 2: a first convolutional network
# MAGIC
# MAGIC The perceptron of lab 1 had to find out for itself that its 784 inputs form a picture. In this lab we build that
# MAGIC knowledge into the network. The tool is the *convolution*. First we design a few by hand, then we let a network learn
# MAGIC its own.

# COMMAND ----------

# DBTITLE 1,Settings
dbutils.widgets.text("data", "mnist", "Data set")
dbutils.widgets.text("epochs", "", "Epochs (empty: as in conf/convnet.yml)")
dbutils.widgets.text("workers", "1", "Workers")
dbutils.widgets.text("storage", "", "Folder for tables and runs (empty: the default)")
dbutils.widgets.dropdown("again", "no", ["no", "yes"], "Train again even if an identical run exists")

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
# MAGIC Take a small square of weights, the *kernel*. Place it on the upper left corner of the image, multiply each weight by
# MAGIC the pixel beneath it, add everything up, and write down the sum. Move the kernel one pixel to the right and repeat,
# MAGIC row by row, over the whole image. The sums form a new image, the *feature map*. It is bright where the image looks
# MAGIC like the kernel.
# MAGIC
# MAGIC (Mathematicians flip the kernel first and call the unflipped form cross-correlation. Networks learn their kernels, so
# MAGIC the orientation makes no difference.)
# MAGIC
# MAGIC Below are five hand-made kernels. The first is negative on the left and positive on the right, so it responds where
# MAGIC dark turns into light from left to right: at the left edges of strokes. The second does the same from top to bottom.
# MAGIC The third and fourth detect slanted edges, and the last one is a plain average, which blurs.

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

# All 3 x 3 neighbourhoods of every image, then one weighted sum per neighbourhood and kernel.
neighbourhoods = np.lib.stride_tricks.sliding_window_view(images[..., 0] / 255, (3, 3), axis=(1, 2))
sums = np.einsum("nyxij,ijk->nyxk", neighbourhoods, kernels[:, :, 0, :])
feature_maps = np.maximum(sums, 0)

value_range = table.manifest.spec.value_range
display(first_layer.draw(kernels, images, feature_maps, value_range).figure)
print(f"images {images.shape} and kernels {kernels.shape} give feature maps {feature_maps.shape}")

# COMMAND ----------

# MAGIC %md
# MAGIC Notice three things.
# MAGIC
# MAGIC * A 3 x 3 kernel fits into each row of 28 pixels at 26 positions, so the feature map is 26 x 26. Without a border of
# MAGIC   zeros around the image (*padding*), each convolution trims a little off.
# MAGIC * The same nine weights were used everywhere. An edge is an edge wherever it is, so there is no need to learn it anew
# MAGIC   for each position. This is called *weight sharing*.
# MAGIC * Each sum sees nine neighbouring pixels and nothing else. That is the knowledge we built in: nearby pixels belong
# MAGIC   together.
# MAGIC
# MAGIC ## Pooling
# MAGIC
# MAGIC It rarely matters whether a stroke is at pixel 11 or 12. *Pooling* divides a feature map into squares of 2 x 2 and
# MAGIC keeps only the largest value of each. A quarter of the numbers remain, and they change little when a digit shifts by a
# MAGIC pixel.

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
# MAGIC ten outputs. Let's count its weights.

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
# MAGIC The convolution has 136 weights; the perceptron's first layer had 15,700. Those 136 weights turn each image into 8 x
# MAGIC 25 x 25 = 5,000 numbers, which takes 80,000 multiplications: every weight is used at 625 positions. In the dense layer
# MAGIC each weight is used once. Convolutions are cheap to store and expensive to compute; with dense layers it is the other
# MAGIC way round.
# MAGIC
# MAGIC The beauty of it is where the kernels come from: nobody designs them. They start as random numbers, and the same
# MAGIC gradient that trains the dense layers trains them too.

# COMMAND ----------

run = notebook.train(config, again=dbutils.widgets.get("again") == "yes")

# COMMAND ----------

# MAGIC %md
# MAGIC ## What it learned to look for
# MAGIC
# MAGIC The first row shows the learned kernels. Red weights are positive, blue ones negative. Compare them with the hand-made
# MAGIC ones: kernels with a red and a blue side are edge detectors that training found on its own. Below each kernel you see
# MAGIC where it responds in four test images.
# MAGIC
# MAGIC Not every kernel has to make sense to us. Nothing in the loss asks for that.

# COMMAND ----------

display(run.figure("first_layer"))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Did it pay off?
# MAGIC
# MAGIC Compare with the perceptron's curves in lab 1: where they end, and how fast they get there. Then look at the gap
# MAGIC between training and validation. This network has nine times as many weights as the perceptron, so it has more
# MAGIC capacity to memorize individual digits. It still does better on digits it has not seen, because most of what it can
# MAGIC express through kernels makes sense for pictures.

# COMMAND ----------

display(run.figure("learning_curves"))

# COMMAND ----------

display(run.figure("worst_mistakes"))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Try it
# MAGIC
# MAGIC * Write another kernel by hand: one that responds to dots, or to the ends of strokes. Which digits does it tell apart?
# MAGIC * Shuffle the pixels as in lab 1, before the hand-made convolution. What do the feature maps look like? A perceptron
# MAGIC   would not mind. Would this network?
# MAGIC * The course reports 98.6 % for this network, trained on all of MNIST. A single seed is a single sample: add
# MAGIC   `training.seed` to the settings above, and see how far apart three seeds are before you call another network better.

# COMMAND ----------

print(f"run {run.summary.run_id}: {100 * run.summary.test.accuracy:.2f} % of {run.summary.test.rows:,} test rows")
