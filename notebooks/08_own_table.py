# Databricks notebook source
# MAGIC %md
# MAGIC # Lab 8: your own table and your own network
# MAGIC
# MAGIC The earlier labs trained ready-made networks on pictures of digits. Most data is neither a picture nor ready-made: it is
# MAGIC a table that somebody in your company has been filling for years. In this lab we take such a table from Spark, write a
# MAGIC network of a few lines in a cell, train it, and put its answers back into the table. Four functions of
# MAGIC `pipelines.api` are all we need: `train`, `evaluate`, `predict` and `score`.
# MAGIC
# MAGIC The table has 569 tumours. A doctor has taken cells from each, a program has measured them in a picture of the
# MAGIC microscope, and a later operation has shown whether the tumour was *benign* or *malignant* (Street, Wolberg and
# MAGIC Mangasarian 1993, *Nuclear feature extraction for breast tumor diagnosis*). Can a network tell beforehand?

# COMMAND ----------

# DBTITLE 1,Settings
dbutils.widgets.text("epochs", "", "Epochs (empty: 20)")
dbutils.widgets.text("workers", "1", "Workers")
dbutils.widgets.text("storage", "", "Folder for tables and runs (empty: the default)")

# COMMAND ----------

# MAGIC %md
# MAGIC ## The table
# MAGIC
# MAGIC Thirty columns of numbers and one of words. With a table of your own this cell would be one line:
# MAGIC `frame = spark.table("catalog.schema.name")`.

# COMMAND ----------

from sklearn.datasets import load_breast_cancer

measured = load_breast_cancer(as_frame=True)
tumours = measured.data.assign(kind=measured.target.map({0: "malignant", 1: "benign"}))
frame = spark.createDataFrame(tumours)
features = [name for name in frame.columns if name != "kind"]
display(frame.select("kind", *features[:4]).limit(5))
display(frame.groupBy("kind").count())

# COMMAND ----------

# MAGIC %md
# MAGIC Look at the sizes of the numbers before you train on them. Areas are in the hundreds, smoothness is about a tenth. A
# MAGIC network begins with weights of about equal size for all inputs, so at first it would hear the areas only, and its
# MAGIC steps, which must be small enough for these, would be too small for the rest. The remedy is to **standardize**: subtract
# MAGIC the mean of each column and divide by its standard deviation. Then every column tells how unusual a tumour is, in the
# MAGIC same unit.
# MAGIC
# MAGIC Two things can go wrong, and both happen in practice. The mean must be that of the *training* rows alone: with the
# MAGIC mean of all rows, the network would know something about rows that it is tested on later. And whoever uses the network
# MAGIC must use the same mean. So Convoy computes it once, when it writes the table, and makes it the first layer of the
# MAGIC network: the finished model takes the numbers as they are measured.

# COMMAND ----------

display(tumours[features[:4]].describe().loc[["mean", "std", "min", "max"]])

# COMMAND ----------

# MAGIC %md
# MAGIC ## The network
# MAGIC
# MAGIC A network is a function. It gets the description of a row (`spec`), of which we need the shape and the statistics, and
# MAGIC the number of classes, and returns a Keras model. `scaled` is the first layer we just spoke of. One hidden layer of 16
# MAGIC units is plenty: with 30 inputs it has 496 weights, more than there are tumours to learn from. (The model must not need
# MAGIC Convoy later on, so what comes from Convoy is imported inside the function.)

# COMMAND ----------

import keras


def network(spec, outputs, units=16):
    from pipelines.models.layers import scaled

    inputs = keras.Input(spec.shape)
    hidden = keras.layers.Dense(units, activation="relu")(scaled(spec, inputs))
    return keras.Model(inputs, keras.layers.Dense(outputs, activation="softmax")(hidden))


# COMMAND ----------

# MAGIC %md
# MAGIC ## Training
# MAGIC
# MAGIC `columns` says which column is to be predicted and which ones are known. All other settings are those of the files in
# MAGIC `conf/`. 30 % of the rows are kept for the test, because with fewer its result would mean little. The words in the
# MAGIC column `kind` become classes in the order of the alphabet.

# COMMAND ----------

from pipelines import api
from pipelines.launch import notebook

settings = {
    **notebook.platform_settings(dbutils.widgets.get("storage")),
    "data.scaling": "standardize",
    "data.value_range": "auto",
    "data.classes": 2,
    "ingest.test_fraction": 0.3,
    "training.epochs": int(dbutils.widgets.get("epochs") or 20),
    "training.batch_size_per_worker": 16,
    "training.base_learning_rate": 0.003,
}
columns = {"label": "kind", "features": features}
workers = int(dbutils.widgets.get("workers"))
run = api.train(frame, network, workers=workers, columns=columns, settings=settings, name="tumours")

# COMMAND ----------

display(run.figure("learning_curves"))

# COMMAND ----------

# MAGIC %md
# MAGIC ## How good is it?
# MAGIC
# MAGIC The accuracy on some 170 rows has a standard error of one to two percentage points, so do not read much into the
# MAGIC second digit. And not all mistakes are alike. Calling a benign tumour malignant leads to an operation that was not
# MAGIC needed; the other mistake can cost a life. The confusion matrix shows them apart.

# COMMAND ----------

accuracy, rows = run.metrics["test/accuracy"], run.summary.rows.test
print(f"{100 * accuracy:.1f} % of {rows} tumours, give or take {100 * (accuracy * (1 - accuracy) / rows) ** 0.5:.1f} points")
display(run.figure("confusion_matrix"))

# COMMAND ----------

# MAGIC %md
# MAGIC ## The answers, back in the table
# MAGIC
# MAGIC `score` runs the model on Spark's workers and returns the same rows with a prediction and the probability of each
# MAGIC class. No column is lost, so the answers can be compared with whatever else is known. Here: how sure is the model when
# MAGIC it is right, and when it is wrong?

# COMMAND ----------

scored = api.score(run, frame, columns=columns, settings=settings)
display(scored.groupBy("kind", "prediction").count())

# COMMAND ----------

# MAGIC %md
# MAGIC Most of these rows were trained on, so this table flatters the network; the test above does not.
# MAGIC
# MAGIC For a single row nobody needs Spark. `predict` takes numbers and answers with probabilities, in the order of the
# MAGIC classes.

# COMMAND ----------

first = tumours[features].head(3)
for kind, probabilities in zip(tumours["kind"][:3], api.predict(run, first, settings=settings), strict=True):
    print(f"{kind:<10} benign {probabilities[0]:.3f}  malignant {probabilities[1]:.3f}")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Does it need a hidden layer?
# MAGIC
# MAGIC Without one, a network of two classes is what statisticians have used since the 1950s: logistic regression. It is the
# MAGIC first thing to try on a table, because it is quick, and because its weights can be read. If a network is not clearly
# MAGIC better, take the simpler one.

# COMMAND ----------


def without_hidden_layer(spec, outputs):
    from pipelines.models.layers import scaled

    inputs = keras.Input(spec.shape)
    return keras.Model(inputs, keras.layers.Dense(outputs, activation="softmax")(scaled(spec, inputs)))


simple = api.train(frame, without_hidden_layer, workers=workers, columns=columns, settings=settings, name="tumours")
for name, each in (("hidden layer", run), ("none", simple)):
    print(f"{name:<13} accuracy {each.metrics['test/accuracy']:.3f}  loss {each.metrics['test/loss']:.3f}")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Try it
# MAGIC
# MAGIC * Train with `"data.scaling": "none"`. How many epochs does the network need now, and where does it end?
# MAGIC * `"training.class_weights": "balanced"` counts mistakes with the rarer kind more. What changes in the confusion matrix,
# MAGIC   and would you pay that price?
# MAGIC * Predict a number: name `mean area` as the label, leave it out of the features, and set `"data.task": "regression"`.
# MAGIC   Which of the other columns make that almost too easy?
