"""The model registry: a trained model is registered as challenger, and becomes champion only by beating the champion.

Works with MLflow's own registry (an sqlite file or a server) and, through three-part names, with Unity Catalog. Roles are
aliases, because Unity Catalog has no stages.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines import tasks
from pipelines.errors import ConfigError, ConvoyError
from pipelines.score.mlflow_client import connect, is_absence, quiet
from pipelines.system.reporter import Reporter
from pipelines.system.secrets import first_line, mask
from pipelines.tasks.task import PairedTest

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHALLENGER, CHAMPION = "challenger", "champion"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether a challenger becomes champion, and why."""

    promoted: bool
    reason: str
    """One human-readable sentence."""
    facts: dict[str, str]
    """The figures behind it, as tags."""


def check_name(name: str) -> None:
    """Raises ConfigError for a name that no registry accepts. Called before any work is done."""
    if not name.strip() or set("/:@") & set(name):
        raise ConfigError(f"--register {name}: must be a name without '/', ':' or '@'; catalog.schema.model in Unity Catalog")


def register(model_uri: str, name: str, tracking_uri: str) -> str:
    """Register a logged model as the next version of `name`, with the alias `challenger`. Returns the version.

    Raises:
        ConvoyError: the registry refused, or the tracking server never received the model.
    """
    import mlflow

    if not model_uri:
        raise ConvoyError(f"not registered as {name}: MLflow at {mask(tracking_uri)} has not received the model")
    client = connect(tracking_uri, name)
    try:
        with quiet():
            version = str(mlflow.register_model(model_uri, name).version)
        client.set_registered_model_alias(name, CHALLENGER, version)
    except Exception as error:
        raise ConvoyError(f"{model_uri} could not be registered as {name} ({first_line(error)})") from error
    return version


def try_register(model_uri: str, name: str, tracking_uri: str, reporter: Reporter) -> dict[str, str]:
    """Like `register`, for the end of a job, whose results must not be lost: a failure is only a warning."""
    try:
        version = register(model_uri, name, tracking_uri)
    except ConvoyError as error:
        reporter.warn(f"{error}; to try again: jobs/evaluate.py --model URI --register {name}")
        return {}
    reporter.say(f"registered as {name} version {version}, alias {CHALLENGER}")
    return {"name": name, "version": version, "alias": CHALLENGER}


def version_of(client: "MlflowClient", name: str, alias: str) -> str | None:
    """The version with an alias, or None.

    Raises:
        ConfigError: there is no registered model of this name.
        ConvoyError: the registry did not say.
    """
    unknown = f"{name}: the registry did not say which version has the alias {alias}"
    try:
        aliases = client.get_registered_model(name).aliases
    except Exception as error:
        if is_absence(error):
            raise ConfigError(
                f"{name}: no such registered model ({first_line(error)}); train with --register {name} first"
            ) from error
        raise ConvoyError(f"{unknown} ({first_line(error)}); try again later") from error
    if alias in aliases:
        return str(aliases[alias])
    # A registry may leave the aliases out of the model's description, so ask for this one, too.
    try:
        return str(client.get_model_version_by_alias(name, alias).version)
    except Exception as error:
        if is_absence(error) or getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE":
            return None
        raise ConvoyError(f"{unknown} ({first_line(error)}); try again later") from error


def decide(pairs: PairedTest, significance: float, table_digest: str) -> Decision:
    """Decide whether the challenger replaces the champion, from both models' answers to the same rows.

    Args:
        pairs: the challenger is the first model, the champion the second.
        significance: the challenger must be better with a p-value below this.
        table_digest: digest of the rows' table.
    """
    promoted = pairs.first_is_better and pairs.p_value < significance
    facts = {
        "table_digest": table_digest,
        "rows": str(pairs.rows),
        **pairs.facts,
        "p_value": f"{pairs.p_value:.6g}",
        "significance": f"{significance:g}",
    }
    outcome = f"{pairs.counts} ({pairs.scores}; {pairs.test_name}, p = {pairs.p_value:.3g}"
    counts = f"of {pairs.rows:,} rows of table {table_digest} {outcome}"
    if promoted:
        return Decision(promoted=True, reason=f"{counts} < {significance:g})", facts=facts)
    why = f", not below {significance:g}" if pairs.first_is_better else ""
    return Decision(promoted=False, reason=f"{counts}{why})", facts=facts)


def first_champion(metrics: Mapping[str, float], rows: int, table_digest: str) -> Decision:
    """The decision where there is no champion to beat.

    Args:
        metrics: of the challenger, the one that is named in the reason first.
        rows: the rows that it was evaluated on.
        table_digest: digest of their table.
    """
    facts = {"table_digest": table_digest, "rows": str(rows)} | {name: f"{value:.6f}" for name, value in metrics.items()}
    name, value = next(iter(metrics.items()))
    reason = f"the first champion: {name} {tasks.shown(name, value)} on {rows:,} rows of table {table_digest}"
    return Decision(promoted=True, reason=reason, facts=facts)


def record(client: "MlflowClient", name: str, version: str, champion: str | None, decision: Decision) -> None:
    """Store the decision with the challenger's version, and move the aliases if it is promoted.

    Raises:
        ConvoyError: the registry refused, or there is another champion than the one that was beaten; nothing is stored then.
    """
    if decision.promoted:
        current = version_of(client, name, CHAMPION)
        if current != champion:
            raise ConvoyError(
                f"{name} version {version}: not promoted, because version {current or 'none'} has become champion in place of "
                f"{champion or 'none'} while it was evaluated; promote again"
            )
    tags: dict[str, Any] = decision.facts | {
        "decision": "promoted" if decision.promoted else "not promoted",
        "against_version": champion or "none",
    }
    verdict = "Champion" if decision.promoted else "Not promoted"
    against = f" (against version {champion})" if champion else ""
    try:
        # The reason must be in place before the alias moves.
        for key, value in tags.items():
            client.set_model_version_tag(name, version, f"promotion.{key}", str(value))
        client.update_model_version(name, version, description=f"{verdict}{against}: {decision.reason}.")
        if decision.promoted:
            client.set_registered_model_alias(name, CHAMPION, version)
            # A newer version may have become challenger meanwhile.
            if version_of(client, name, CHALLENGER) == version:
                client.delete_registered_model_alias(name, CHALLENGER)
    except Exception as error:
        raise ConvoyError(f"{name} version {version}: the decision could not be stored ({first_line(error)})") from error
