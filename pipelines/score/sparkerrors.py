"""What went wrong in a Spark job, as one line for the user."""

import re

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from pipelines.data.ingest.spark_jobs import cause
from pipelines.errors import DataError

# The last line of a Python worker's traceback, for an error that was meant for the user.
_USERS_ERROR = re.compile(r"^(?:pipelines\.errors\.)?(?:DataError|ConfigError|ConvoyError): (.+)$", re.MULTILINE)


def explained(error: Py4JJavaError | PySparkException, what: str) -> DataError:
    """A worker's own DataError as it was, else `what` and the innermost reason."""
    text = str(error.java_exception) if isinstance(error, Py4JJavaError) else str(error)
    own = _USERS_ERROR.search(text)
    if own is not None:
        return DataError(own.group(1).strip())
    raised = re.findall(r"^\w[\w.]*(?:Error|Exception): .+$", text, re.MULTILINE)
    return DataError(f"{what}: {raised[-1][:300] if raised else cause(error)}")
