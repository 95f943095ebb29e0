# Databricks notebook source
# MAGIC %md
# MAGIC # Lab 1: a perceptron, and what overfitting looks like
# MAGIC
# MAGIC A network is a function with many numbers in it that nobody has chosen. Training chooses them. In this lab we take one
# MAGIC of the simplest networks there is, show it images of digits, and watch two things happen: it learns, and after a while
# MAGIC it begins to learn the wrong thing.
# MAGIC
# MAGIC The data is MNIST: 70,000 handwritten digits of 28 x 28 grey pixels, 60,000 to learn from and 10,000 to be tested on
# MAGIC (LeCun, Bottou, Bengio and Haffner 1998, *Gradient-based learning applied to document recognition*). Where it cannot
# MAGIC be fetched, 5,000 of its digits stand in for it; the output below then says so, and every accuracy is lower.

# COMMAND ----------

# DBTITLE 1,Settings
dbutils.widgets.text("data", "mnist", "Data set")
dbutils.widgets.text("epochs", "", "Epochs (empty: what conf/mlp.yml says)")
dbutils.widgets.text("workers", "1", "Workers")
dbutils.widgets.text("storage", "", "Folder for tables and runs (empty: the usual one)")
dbutils.widgets.dropdown("again", "no", ["no", "yes"], "Train again where an equal run exists")

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
# MAGIC The rows are split in three, and the split is the most important idea of this lab.
# MAGIC
# MAGIC * **Training** rows: the network's numbers, its *weights*, are changed until it answers these rightly.
# MAGIC * **Validation** rows: never used to change a weight. After each pass over the training rows we ask the network about
# MAGIC   them, to see how it does on digits that it was not trained on. They are a tenth of what was meant for training,
# MAGIC   drawn at random.
# MAGIC * **Test** rows: looked at once, at the very end. Whoever chooses between networks by their test accuracy has begun to
# MAGIC   fit the test rows too, and the number loses its meaning.
# MAGIC
# MAGIC Here are the first training rows. To the network each is 784 numbers from 0 (black) to 255 (white).

# COMMAND ----------

from pipelines.track.figures import examples

manifest = table.manifest
images, labels = notebook.images(table, "train", 40)
display(examples.draw(images, labels, manifest.class_names, manifest.image.value_range).figure)

# COMMAND ----------

# MAGIC %md
# MAGIC ## The network
# MAGIC
# MAGIC The network is a *multilayer perceptron* (`pipelines/models/mlp.py`). The 784 pixels are laid in a row. Then come
# MAGIC three layers, and each does the same thing: every unit multiplies all its inputs by weights of its own, adds them up,
# MAGIC adds one more weight (the *bias*), and passes on the sum, or zero where the sum is negative. That last part is called
# MAGIC *relu*. Without something like it, three layers could do no more than one, because a weighted sum of weighted sums is
# MAGIC a weighted sum.
# MAGIC
# MAGIC The last layer has one unit per digit and no relu. Its ten sums are turned into ten probabilities that add up to one
# MAGIC (*softmax*): each sum is put into an exponential, and divided by the total.
# MAGIC
# MAGIC How many weights is that? An input for each unit, and a bias for each unit:

# COMMAND ----------

from itertools import pairwise

sizes = [784, 20, 15, 10]
weights = [inputs * units + units for inputs, units in pairwise(sizes)]
print(f"{' + '.join(f'{number:,}' for number in weights)} = {sum(weights):,} weights")

# COMMAND ----------

# MAGIC %md
# MAGIC Nearly all of them sit in the first layer. Keep that number in mind for the next lab.
# MAGIC
# MAGIC ## What it does not know
# MAGIC
# MAGIC A perceptron has no idea that its inputs form a picture. If we shuffle the pixels of all images by one fixed rule, a
# MAGIC person can no longer read them. For the perceptron nothing has changed: it starts from random weights, so it does not
# MAGIC care which input is which, and it would learn the shuffled digits exactly as well. Everything it could have known for
# MAGIC free (that neighbouring pixels belong together, that a seven moved by one pixel is still a seven) it must find out
# MAGIC from examples.

# COMMAND ----------

import numpy as np

order = np.random.default_rng(1).permutation(images[0].size)
shuffled = images[:10].reshape(10, -1)[:, order].reshape(images[:10].shape)
pairs = np.concatenate([images[:10], shuffled])
display(examples.draw(pairs, np.tile(labels[:10], 2), manifest.class_names, manifest.image.value_range).figure)

# COMMAND ----------

# MAGIC %md
# MAGIC ## Training
# MAGIC
# MAGIC Training goes in small steps. Take a *batch* of rows (here 100). Let the network answer. Measure how bad the answers
# MAGIC are by the *loss*: minus the logarithm of the probability that it gave to the right digit, averaged over the batch. A
# MAGIC sure right answer costs almost nothing, a coin's toss between two digits costs 0.69, a sure wrong answer costs a lot.
# MAGIC Then find out, for every weight, in which direction a small change would lower the loss (the *gradient*), and change
# MAGIC all of them a little that way. One pass over all training rows is an *epoch*.
# MAGIC
# MAGIC A network that knows nothing does best to give each digit a tenth: loss 2.30, accuracy 10 %. Whatever the curves below
# MAGIC show beyond that was learned.

# COMMAND ----------

run = notebook.train(config, again=dbutils.widgets.get("again") == "yes")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Reading the curves
# MAGIC
# MAGIC Look for three things.
# MAGIC
# MAGIC 1. **Does it learn?** Both losses fall quickly in the first epochs.
# MAGIC 2. **Where do the curves part?** The training loss keeps falling. The validation loss falls with it, then flattens,
# MAGIC    and may rise again. From there on the network still improves on the digits it is shown, and no longer on others. It
# MAGIC    has begun to remember particular digits instead of what makes a four a four. That is **overfitting**, and the
# MAGIC    shaded gap is its size.
# MAGIC 3. **Which epoch was best?** The one with the lowest validation loss, marked by a circle. Everything after it was
# MAGIC    wasted, or worse.
# MAGIC
# MAGIC In the first epochs training may even look *worse* than validation. Its numbers are means over the epoch, begun by a
# MAGIC network that knew less; the validation numbers are taken at the epoch's end.
# MAGIC
# MAGIC Accuracy shows overfitting later than loss does. A network that has become too sure of itself pays for each mistake
# MAGIC with a high loss, long before it makes more mistakes.
# MAGIC
# MAGIC That networks *can* remember is not a weakness of this one: large ones learn even labels drawn by lot without a single
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
# MAGIC One number hides what kind of mistakes there are. In the table below each row is a true digit, each column what the
# MAGIC network said. The diagonal is right, everything else is a mistake: pairs that look alike to us tend to be pairs that
# MAGIC the network mixes up.

# COMMAND ----------

display(run.figure("confusion_matrix"))

# COMMAND ----------

# MAGIC %md
# MAGIC And these are the mistakes that it was surest of. Some could fool a person. Many could not: this is what a network
# MAGIC without any idea of a picture does.

# COMMAND ----------

display(run.figure("worst_mistakes"))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Try it
# MAGIC
# MAGIC * Set `data` to `mnist-5k`: fewer than a tenth of the rows, the same network. What happens to the gap, and why?
# MAGIC * Set `epochs` to 5, then to 100. Which of the three accuracies change?
# MAGIC * This network takes raw values from 0 to 255, while the ones of the next labs scale them to 0..1 first. What does a
# MAGIC   step of the same size mean for a weight whose input is 255 times as large? `pipelines/models/layers.py` has the
# MAGIC   scaling.

# COMMAND ----------

print(f"run {run.summary.run_id} in experiment {config.tracking.experiment}, folder {run.run_dir}")
