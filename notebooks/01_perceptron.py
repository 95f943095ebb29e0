# Databricks notebook source
# MAGIC %md
# MAGIC # Lab 1: a perceptron, and what overfitting looks like
# MAGIC
# MAGIC A network is a function with many parameters that nobody sets by hand. Training finds their values. In this lab we
# MAGIC take one of the simplest networks there is, show it images of digits, and watch two things happen: it learns, and
# MAGIC after a while it begins to learn the wrong thing.
# MAGIC
# MAGIC The data is MNIST: 70,000 handwritten digits of 28 x 28 grey pixels, 60,000 for training and 10,000 for testing
# MAGIC (LeCun, Bottou, Bengio and Haffner 1998, *Gradient-based learning applied to document recognition*). If it cannot be
# MAGIC downloaded, 5,000 of its digits stand in for it; the output below then says so, and every accuracy is lower.

# COMMAND ----------

# DBTITLE 1,Settings
dbutils.widgets.text("data", "mnist", "Data set")
dbutils.widgets.text("epochs", "", "Epochs (empty: as in conf/mlp.yml)")
dbutils.widgets.text("workers", "1", "Workers")
dbutils.widgets.text("storage", "", "Folder for tables and runs (empty: the default)")
dbutils.widgets.dropdown("again", "no", ["no", "yes"], "Train again even if an identical run exists")

# COMMAND ----------

from pipelines.launch import notebook

config = notebook.configuration(
    "conf/mlp.yml",
    {
        "data.dataset": dbutils.widgets.get("data"),
        "training.epochs": dbutils.widgets.get("epochs"),
        "launch.workers": dbutils.widgets.get("workers"),
    },
    storage=dbutils.widgets.get("storage"),
)
table = notebook.open_table(config)
{split: summary.rows for split, summary in table.manifest.splits.items()}

# COMMAND ----------

# MAGIC %md
# MAGIC ## Three kinds of rows
# MAGIC
# MAGIC The rows are split into three sets, and this split is the most important idea of the lab.
# MAGIC
# MAGIC * **Training** rows: the network's parameters, its *weights*, are adjusted until it classifies these correctly.
# MAGIC * **Validation** rows: never used to adjust a weight. After each pass over the training rows we evaluate the network
# MAGIC   on them, to see how it does on digits that it was not trained on. They are a random tenth of the rows intended for
# MAGIC   training.
# MAGIC * **Test** rows: used once, at the very end. If you choose between networks by their test accuracy, you have begun to
# MAGIC   fit the test rows as well, and the number loses its meaning.
# MAGIC
# MAGIC Here are the first training rows. To the network, each of them is 784 numbers from 0 (black) to 255 (white).

# COMMAND ----------

from pipelines.track.figures import examples

manifest = table.manifest
images, labels = notebook.images(table, "train", 40)
display(examples.draw(images, labels, manifest.class_names, manifest.spec.value_range).figure)

# COMMAND ----------

# MAGIC %md
# MAGIC ## The network
# MAGIC
# MAGIC The network is a *multilayer perceptron* (`pipelines/models/mlp.py`). The 784 pixels are flattened into a vector. Then
# MAGIC come three layers, and each does the same thing: every unit multiplies all its inputs by its own weights, adds them
# MAGIC up, adds one more weight (the *bias*), and outputs the sum, or zero if the sum is negative. That last part is called
# MAGIC *ReLU*. Without a nonlinearity like it, three layers could do no more than one, because a weighted sum of weighted
# MAGIC sums is again a weighted sum.
# MAGIC
# MAGIC The last layer has one unit per digit and no ReLU. Its ten sums are turned into ten probabilities that add up to one
# MAGIC (*softmax*): take the exponential of each sum, and divide it by the total.
# MAGIC
# MAGIC How many weights is that? One for every input of every unit, and a bias for each unit:

# COMMAND ----------

from itertools import pairwise

sizes = [784, 20, 15, 10]
weights = [inputs * units + units for inputs, units in pairwise(sizes)]
print(f"{' + '.join(f'{number:,}' for number in weights)} = {sum(weights):,} weights")

# COMMAND ----------

# MAGIC %md
# MAGIC Nearly all of them are in the first layer. Keep that number in mind for the next lab.
# MAGIC
# MAGIC ## What it does not know
# MAGIC
# MAGIC A perceptron has no idea that its inputs form a picture. If we shuffle the pixels of all images in the same fixed way,
# MAGIC a person can no longer read them. For the perceptron nothing has changed: it starts from random weights, so it does
# MAGIC not care which input is which, and it would learn the shuffled digits just as well. Whatever it could have known for
# MAGIC free (that neighbouring pixels belong together, that a seven shifted by one pixel is still a seven) it has to learn
# MAGIC from examples.

# COMMAND ----------

import numpy as np

order = np.random.default_rng(1).permutation(images[0].size)
shuffled = images[:10].reshape(10, -1)[:, order].reshape(images[:10].shape)
pairs = np.concatenate([images[:10], shuffled])
display(examples.draw(pairs, np.tile(labels[:10], 2), manifest.class_names, manifest.spec.value_range).figure)

# COMMAND ----------

# MAGIC %md
# MAGIC ## Training
# MAGIC
# MAGIC Training proceeds in small steps. Take a *batch* of rows (here 100). Let the network predict. Measure how bad its
# MAGIC predictions are with the *loss*: minus the logarithm of the probability that it gave to the right digit, averaged over
# MAGIC the batch. A confident right answer costs almost nothing, a coin toss between two digits costs 0.69, and a confident
# MAGIC wrong answer costs a lot. Then find out, for every weight, in which direction a small change would lower the loss (the
# MAGIC *gradient* tells), and change all of them a little that way. One pass over all training rows is an *epoch*.
# MAGIC
# MAGIC The best that a network can do without knowing anything is to give each digit a probability of one tenth: loss 2.30,
# MAGIC accuracy 10 %. Whatever the curves below show beyond that was learned.

# COMMAND ----------

run = notebook.train(config, again=dbutils.widgets.get("again") == "yes")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Reading the curves
# MAGIC
# MAGIC Look for three things.
# MAGIC
# MAGIC 1. **Does it learn?** Both losses fall quickly in the first epochs.
# MAGIC 2. **Where do the curves diverge?** The training loss keeps falling. The validation loss falls with it, then flattens
# MAGIC    out, and may rise again. From there on the network still improves on the digits it is shown, but no longer on
# MAGIC    others. It has begun to memorize particular digits instead of learning what makes a four a four. That is
# MAGIC    **overfitting**, and the shaded gap shows its size.
# MAGIC 3. **Which epoch was best?** The one with the lowest validation loss, marked with a circle. Everything after it was
# MAGIC    wasted, or worse.
# MAGIC
# MAGIC In the first epochs training may even look *worse* than validation. The training numbers are averages over the epoch,
# MAGIC including its beginning, when the network knew less; the validation numbers are measured at the end of the epoch.
# MAGIC
# MAGIC Accuracy shows overfitting later than the loss does. A network that has become overconfident pays for each mistake
# MAGIC with a high loss, long before it makes more mistakes.
# MAGIC
# MAGIC The ability to memorize is not peculiar to this network: large networks can fit even random labels without a single
# MAGIC mistake (Zhang et al. 2017, *Understanding deep learning requires rethinking generalization*, arXiv:1611.03530).

# COMMAND ----------

display(run.figure("learning_curves"))

# COMMAND ----------

last = run.history[-1]
test = run.summary.test
print(f"training    {100 * last['train/accuracy']:.2f} %, loss {last['train/loss']:.4f} (last epoch, measured while it trained)")
print(f"validation  {100 * last['validation/accuracy']:.2f} %, loss {last['validation/loss']:.4f} (last epoch)")
print(f"test        {100 * test.accuracy:.2f} %, loss {test.loss:.4f} ({test.rows:,} rows, looked at once)")
print(f"lowest validation loss in epoch {run.summary.best_epoch} of {run.summary.epochs}")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Where it fails
# MAGIC
# MAGIC A single number hides what kinds of mistakes there are. In the table below each row is a true digit, and each column
# MAGIC is the network's prediction. Entries on the diagonal are right, all others are mistakes: digits that look alike to us
# MAGIC tend to be digits that the network confuses.

# COMMAND ----------

display(run.figure("confusion_matrix"))

# COMMAND ----------

# MAGIC %md
# MAGIC And these are its most confident mistakes. Some would fool a person too. Many would not: this is what happens when a
# MAGIC network has no notion of a picture.

# COMMAND ----------

display(run.figure("worst_mistakes"))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Try it
# MAGIC
# MAGIC * Set `data` to `mnist-5k`: the same network with less than a tenth of the rows. What happens to the gap, and why?
# MAGIC * Set `epochs` to 5, then to 100. Which of the three accuracies change?
# MAGIC * This network takes raw values from 0 to 255, while those in the next labs first scale them to 0..1. What does a step
# MAGIC   of the same size mean for a weight whose input is 255 times as large? The scaling is in
# MAGIC   `pipelines/models/layers.py`.

# COMMAND ----------

print(f"run {run.summary.run_id} in experiment {config.tracking.experiment}, folder {run.run_dir}")
