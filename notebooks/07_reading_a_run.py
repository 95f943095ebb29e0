# Databricks notebook source
# MAGIC %md
# MAGIC # Lab 7: reading a run
# MAGIC
# MAGIC A trained network without a record of how it was made is like a number without a unit. Every training in the earlier
# MAGIC labs left such a record, a **run**, on a tracking server (MLflow). In this lab we open one and answer, without looking
# MAGIC at the code that trained it: what was done, on which data, how did it go, how good is the result, and can I use it?
# MAGIC
# MAGIC On a laptop, `./convoy ui` shows the same run in a browser; on Databricks, the *Experiments* page does.

# COMMAND ----------

# DBTITLE 1,Settings
dbutils.widgets.text("data", "mnist", "Data set (only if there is no run yet)")
dbutils.widgets.text("epochs", "", "Epochs (only if there is no run yet)")
dbutils.widgets.text("workers", "1", "Workers (only if there is no run yet)")
dbutils.widgets.text("storage", "", "Folder for tables and runs (empty: the default)")

# COMMAND ----------

# MAGIC %md
# MAGIC We read the newest finished run. If there is none, we train the first ConvNet now.

# COMMAND ----------

from pipelines.launch import notebook
from pipelines.system import paths
from pipelines.track import finished_run

config = notebook.configuration(
    "conf/convnet.yml",
    {
        "data.dataset": dbutils.widgets.get("data"),
        "training.epochs": dbutils.widgets.get("epochs"),
        "launch.workers": dbutils.widgets.get("workers"),
    },
    storage=dbutils.widgets.get("storage"),
)
run = finished_run.newest(paths.to_python(config.launch.runs_uri)) or notebook.train(config)
print(f"run {run.summary.run_id}: {run.title}, in {run.run_dir}")

# COMMAND ----------

# MAGIC %md
# MAGIC ## All runs side by side
# MAGIC
# MAGIC Before we open one run: which runs are there? MLflow returns a table with one row per run. *Parameters* are what went
# MAGIC in, *metrics* are what came out.

# COMMAND ----------

import mlflow

from pipelines.track.mlflow.follower import default_tracking_uri

mlflow.set_tracking_uri(default_tracking_uri(run.config.tracking))
runs = mlflow.search_runs(experiment_names=[run.config.tracking.experiment], order_by=["attributes.start_time DESC"])
columns = ["tags.mlflow.runName", "params.training.epochs", "params.training.optimizer", "metrics.test/accuracy", "status"]
display(runs[[column for column in columns if column in runs]].head(10))

# COMMAND ----------

# MAGIC %md
# MAGIC ## What was configured
# MAGIC
# MAGIC Every setting that can make one run differ from another is a *parameter* of the run, even if nobody changed it: if a
# MAGIC default changes later, that must not change the past. All settings are in the artifact `config.yml`, and `./convoy
# MAGIC train --config config.yml` repeats the run. Below are the settings that differ from the defaults.

# COMMAND ----------

from pipelines.config import Config

defaults = Config().flat()
{key: value for key, value in run.config.flat().items() if value != defaults[key]}

# COMMAND ----------

# MAGIC %md
# MAGIC ## On which data
# MAGIC
# MAGIC The run identifies its table by a *digest*: a fingerprint of the source files and of all settings that affect the
# MAGIC rows. Two runs with the same digest saw the same rows. Comparing the accuracies of runs with different digests is like
# MAGIC comparing the grades of different exams.

# COMMAND ----------

client = mlflow.MlflowClient()
record = client.get_run(run.summary.run_id)
for entry in record.inputs.dataset_inputs:
    print(f"{entry.dataset.name:<24} digest {entry.dataset.digest}  {entry.dataset.profile[:60]}")
if run.summary.note:
    print(run.summary.note)

# COMMAND ----------

# MAGIC %md
# MAGIC ## How it went
# MAGIC
# MAGIC A metric has a history: one value per epoch. Lab 1 explains how to read the curves. Ask these questions in order: did
# MAGIC the training loss fall? Did the validation loss? Where do they diverge? Was the last epoch the best one, so that more
# MAGIC epochs might help?

# COMMAND ----------

display(run.figure("learning_curves"))

# COMMAND ----------

# MAGIC %md
# MAGIC ## How good it is
# MAGIC
# MAGIC One number first, then what is behind it. The accuracy has a statistical error (lab 3 computes it). Then: which
# MAGIC classes are hard? *Precision* asks: of the images that it called a four, how many are fours? *Recall* asks: of the
# MAGIC fours, how many did it find? A network that calls everything a four has perfect recall for fours.

# COMMAND ----------

accuracy, count = run.summary.test.accuracy, run.summary.test.rows
error = (accuracy * (1 - accuracy) / count) ** 0.5
print(f"test accuracy {100 * accuracy:.2f} % of {count:,} rows, give or take {100 * error:.2f} points (one standard error)")
display(run.figure("per_class"))

# COMMAND ----------

display(run.figure("confusion_matrix"))

# COMMAND ----------

# MAGIC %md
# MAGIC Look at the mistakes themselves before you decide on a remedy. Wrong labels, cropped images and digits that nobody
# MAGIC could read call for something other than a larger network.

# COMMAND ----------

display(run.figure("worst_mistakes"))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Can I use it?
# MAGIC
# MAGIC The run contains the trained network as a *model*: its weights, the shapes of its inputs and outputs (its
# MAGIC *signature*), and the packages needed to load it. It takes raw pixels and needs neither Spark nor Horovod. We load it
# MAGIC from the run, let it classify test rows, and check that it does as well as the run claims.

# COMMAND ----------

from pipelines.score import model_lookup
from pipelines.score.classifier import Classifier

classifier = Classifier(model_lookup.find(run.summary.model_uri, default_tracking_uri(run.config.tracking)))
images, labels = notebook.images(run.table, "test", 1000)
probabilities = classifier.probabilities(images)
right = int((probabilities.argmax(axis=1) == labels).sum())
recorded_right = int((run.predictions.probabilities[:1000].argmax(axis=1) == run.predictions.labels[:1000]).sum())
print(f"model {classifier.info.uri}")
print(f"takes images of shape {classifier.info.image_shape}, distinguishes {', '.join(classifier.info.class_names)}")
print(f"gets {right} of the first {len(labels)} test rows right")
print(f"after training it got {recorded_right} of them right")

# COMMAND ----------

import pandas as pd

names = classifier.info.class_names
display(
    pd.DataFrame(
        [
            {
                "row": row,
                "true": names[labels[row]],
                "predicted": names[probabilities[row].argmax()],
                "probability": probabilities[row].max(),
            }
            for row in range(8)
        ]
    )
)

# COMMAND ----------

# MAGIC %md
# MAGIC ## What else is there
# MAGIC
# MAGIC Finally, the run's artifacts, as stored by the tracking server. The *tags* record the versions of everything it was
# MAGIC trained with, and the commit.

# COMMAND ----------

for artifact in client.list_artifacts(record.info.run_id):
    print(artifact.path, "" if artifact.file_size is None else f"({artifact.file_size:,} bytes)")
for tag in sorted(tag for tag in record.data.tags if tag.startswith("version.")):
    print(f"{tag.removeprefix('version.'):<16} {record.data.tags[tag]}")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Try it
# MAGIC
# MAGIC * Write down, from the run alone, everything that somebody would need to reproduce the accuracy. What is missing?
# MAGIC * Take the `config.yml` of a run and repeat it. Are the metrics equal to the last digit? Which of them cannot be?
# MAGIC * `./convoy predict` takes an image file and answers with a digit. Write one with a pen, photograph it, and see.
