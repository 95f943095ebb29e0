# Databricks notebook source
# MAGIC %md
# MAGIC # Lab 9: starting from weights
# MAGIC
# MAGIC Every network so far began with random weights and learned all it knows from the rows we gave it. A child who can read
# MAGIC five letters does not learn the sixth like that. Strokes, corners and bows are known already; only the new letter is
# MAGIC new. In this lab a network that knows the digits 0 to 4 learns 5 to 9, from some 200 pictures.
# MAGIC
# MAGIC This is called **fine-tuning**, or transfer learning, and it is how most networks are trained today: somebody has spent
# MAGIC weeks on millions of pictures, and you have a thousand of your own.

# COMMAND ----------

# DBTITLE 1,Settings
dbutils.widgets.text("epochs", "", "Epochs with few rows (empty: 8)")
dbutils.widgets.text("workers", "1", "Workers")
dbutils.widgets.text("storage", "", "Folder for tables and runs (empty: the default)")

# COMMAND ----------

# MAGIC %md
# MAGIC ## What can be taken along
# MAGIC
# MAGIC A network of pictures has two parts. The convolutions turn a picture into features, and what they have learned is not
# MAGIC about any digit in particular; you saw their kernels in Lab 2. The dense layers at the end, the **head**, turn features
# MAGIC into a decision between the classes, and the next five digits need another decision.
# MAGIC
# MAGIC So the two trainings share the convolutions, but not the head. Convoy takes the weights of every layer whose *name* and
# MAGIC *shapes* agree with those of the earlier model. Both heads below have five outputs, so their shapes agree, and we do not
# MAGIC want their weights: with those, the network would start out sure that every 7 is a 2. A name that tells which digits the
# MAGIC head is for keeps them apart. It is an argument of the network, which the settings give.

# COMMAND ----------

import keras


def network(spec, outputs, head="low"):
    layers = keras.layers
    inputs = keras.Input(spec.shape)
    features = layers.Rescaling(1 / 16)(inputs)
    for number, kernels in enumerate([16, 32, 32, 64], 1):
        features = layers.Conv2D(kernels, 3, padding="same", activation="relu", name=f"convolution_{number}")(features)
        if number % 2 == 0:
            features = layers.MaxPooling2D()(features)
    features = layers.Flatten()(features)
    features = layers.Dense(64, activation="relu", name=f"hidden_{head}")(features)
    return keras.Model(inputs, layers.Dense(outputs, activation="softmax", name=f"head_{head}")(features))


# COMMAND ----------

# MAGIC %md
# MAGIC ## The digits that it knows
# MAGIC
# MAGIC The pictures are small ones this time, 8 x 8 pixels with values from 0 to 16 (Alpaydin and Kaynak 1998, *Optical
# MAGIC recognition of handwritten digits*), and come as a table of two columns. `data.labels` names the labels in the order of
# MAGIC the classes, which Convoy counts from 0.

# COMMAND ----------

from sklearn.datasets import load_digits

from pipelines import api
from pipelines.launch import notebook

digits = load_digits()
rows = [(pixels.tolist(), int(label)) for pixels, label in zip(digits.data, digits.target, strict=True)]
frame = spark.createDataFrame(rows, ["image", "label"])
common = {
    **notebook.platform_settings(dbutils.widgets.get("storage")),
    "data.image_shape": [8, 8, 1],
    "data.value_range": [0, 16],
    "data.classes": 5,
    "training.batch_size_per_worker": 16,
    "training.base_learning_rate": 0.001,
}
workers = int(dbutils.widgets.get("workers"))
low = common | {"data.labels": [0, 1, 2, 3, 4], "model.arguments": {"head": "low"}, "training.epochs": 12}
known = api.train(frame.where("label < 5"), network, workers=workers, settings=low, name="low")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Five new ones, from few pictures
# MAGIC
# MAGIC Now 5 to 9, and we pretend that labels are dear: half of the rows are kept for the test, and half of the others for
# MAGIC validation. That leaves few to learn from, and many to see how well it was learned.
# MAGIC
# MAGIC We train three times on the same rows, in the same order, for as many epochs:
# MAGIC
# MAGIC * **from scratch**, with random weights everywhere,
# MAGIC * **from weights**: `model.weights` is the model above, and all layers go on learning,
# MAGIC * **frozen**: from the same weights, and `model.frozen` keeps the convolutions as they are. Only the head learns.

# COMMAND ----------

high = common | {
    "data.labels": [5, 6, 7, 8, 9],
    "model.arguments": {"head": "high"},
    "ingest.test_fraction": 0.5,
    "ingest.validation_fraction": 0.5,
    "training.epochs": int(dbutils.widgets.get("epochs") or 12),
}
weights = {"model.weights": known.model_uri}
starts = {"from scratch": {}, "from weights": weights, "frozen": weights | {"model.frozen": ["convolution_*"]}}
later = frame.where("label >= 5")
runs = {name: api.train(later, network, workers=workers, settings=high | start, name="high") for name, start in starts.items()}

# COMMAND ----------

# MAGIC %md
# MAGIC Look for the line that says which weights were taken. The four convolutions have some; the head does not, because no layer
# MAGIC of the earlier model has its name. It is worth reading that line every time. A network in which one layer was renamed
# MAGIC trains all the same, from random weights, and nobody notices.

# COMMAND ----------

from pipelines.track.figures import comparison

display(comparison.draw({name: run.history for name, run in runs.items()}).figure)

# COMMAND ----------

rows = runs["frozen"].summary.rows
print(f"{rows.train:,} pictures to learn from, {rows.validation:,} for validation")
for name, run in runs.items():
    first, last = run.history[0], run.history[-1]
    shown = [f"{100 * epoch['validation/accuracy']:.1f} %, loss {epoch['validation/loss']:.2f}" for epoch in (first, last)]
    print(f"{name:<12}  after one epoch {shown[0]}; after {len(run.history)} {shown[1]}")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Reading the curves
# MAGIC
# MAGIC * **The start.** After one epoch the network that started from weights is ahead: it has features, and needs only to
# MAGIC   learn what to make of them. That is the gain, and it is one of *time*.
# MAGIC * **The end.** With these small pictures the lead melts, since convolutions this small are learned from a few hundred
# MAGIC   pictures in some epochs. With three seeds, 68, 60 and 59 % of the validation rows were right after one epoch from
# MAGIC   weights and 66, 43 and 38 % from scratch; after five it was 94, 95 and 90 %, and 97, 93 and 93 %. Where features take
# MAGIC   millions of pictures to learn, as for photographs, the lead does not melt.
# MAGIC * **Frozen or not.** A frozen layer has no gradient, so a step is cheaper, and with very few rows it cannot be spoiled by
# MAGIC   them. But it cannot get better either: features for 0 to 4 need not be the best ones for 8, and here the frozen network
# MAGIC   ends behind both others.
# MAGIC
# MAGIC One seed proves nothing about a lead of one percentage point. The table above is one draw; train with two more seeds
# MAGIC (`"training.seed": 2`) before you tell anybody.

# COMMAND ----------

# MAGIC %md
# MAGIC ## The test, once
# MAGIC
# MAGIC We chose nothing on the test rows, so we may look at all three. The run remembers where its weights came from: the page of
# MAGIC the run has `model.weights` among its tags, and resuming it or restarting after a lost worker uses the copy in its folder.

# COMMAND ----------

for name, run in runs.items():
    accuracy, count = run.metrics["test/accuracy"], run.summary.rows.test
    print(f"{name:<12}  {100 * accuracy:.1f} % of {count:,}, give or take {100 * (accuracy * (1 - accuracy) / count) ** 0.5:.1f}")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Try it
# MAGIC
# MAGIC * Take only every second of the new pictures (`later.sample(0.5, seed=1)`). How large is the lead with so few?
# MAGIC * Give both heads the same name. Which layers are taken now, and what does the first epoch look like?
# MAGIC * Freeze only `convolution_1`, then all but `convolution_4`. Which layers would you expect to depend more on the digits?
# MAGIC * Fine-tuning usually asks for a smaller step, so that the weights are not washed away at the start: a tenth of the
# MAGIC   learning rate, or some epochs frozen and then some with all layers (`model.weights` of the frozen run).
