"""Checkpoints and ledger in Lakebase: Postgres whose password is a token that is valid for an hour."""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from ..errors import StateError
from .postgres import require_packages
from .url import LakebaseUrl

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks_langchain import AsyncCheckpointSaver

    from databricks_supervisor import SqlLedger

DATABASE = "databricks_postgres"  # The one that AsyncCheckpointSaver opens, too.


@dataclass(frozen=True, slots=True)
class Lakebase:
    """A Lakebase database, found by the workspace of the environment.

    Attributes:
        url: Its URL.
        conninfo: psycopg's connection string, without a password.
        workspace: Gives the tokens; the connections are made as its user.
    """

    url: LakebaseUrl
    conninfo: str
    workspace: WorkspaceClient = field(repr=False)

    @classmethod
    def find(cls, url: LakebaseUrl) -> Self:
        """Ask the workspace for the database's address. Blocks.

        Raises:
            StateError: There is no workspace, or no such database, or its packages are not installed.
        """
        require_packages("Lakebase", "lakebase", "databricks_langchain", "psycopg_pool")
        from databricks.sdk import WorkspaceClient
        from databricks.sdk.core import Config
        from psycopg.conninfo import make_conninfo

        try:
            workspace = WorkspaceClient(config=Config(retry_timeout_seconds=2, http_timeout_seconds=5))
            host = _host(workspace, url)
            user = workspace.current_user.me().user_name
        except Exception as error:
            raise _not_found(url, error) from None
        if not host or not user:
            raise StateError(f"SUPERVISOR_STATE_URL: Lakebase {_name(url)} has no address: is it running?")
        options = {"options": f"-c search_path={_quoted(url.schema)},public"} if url.schema else {}
        conninfo = make_conninfo(
            "", host=host, port=5432, dbname=DATABASE, user=user, sslmode="require", **options
        )
        return cls(url, conninfo, workspace)

    def password(self) -> str:
        """A token for one new connection. Blocks.

        Raises:
            StateError: The workspace gives none.
        """
        try:
            if self.url.endpoint is not None:
                token = self.workspace.postgres.generate_database_credential(endpoint=self.url.endpoint).token
            else:
                token = self.workspace.database.generate_database_credential(
                    instance_names=[str(self.url.instance)], request_id=str(uuid.uuid4())
                ).token
        except Exception as error:
            raise _not_found(self.url, error) from None
        if not token:
            raise StateError(
                f"SUPERVISOR_STATE_URL: the workspace gave no token for Lakebase {_name(self.url)}."
            )
        return token

    def ledger(self) -> SqlLedger:
        """A ledger in it; each new connection gets a fresh token."""
        from databricks_supervisor import SqlLedger

        return SqlLedger.from_psycopg(self.conninfo, password=self.password)

    def saver(self, **pool: Any) -> AsyncCheckpointSaver:
        """A checkpointer for it, not opened yet.

        Args:
            pool: Options of its connection pool.
        """
        from databricks_langchain import AsyncCheckpointSaver

        from .retrying_saver import RetryingPostgresSaver

        class RetryingCheckpointSaver(RetryingPostgresSaver, AsyncCheckpointSaver):  # type: ignore[misc]
            """Databricks' checkpointer; a restart of the database costs it a wait."""

        build: Any = RetryingCheckpointSaver
        # At the level DEBUG it logs the ends of the tokens.
        logging.getLogger("databricks_ai_bridge.lakebase").setLevel(logging.INFO)
        saver: AsyncCheckpointSaver = build(
            instance_name=self.url.instance,
            autoscaling_endpoint=self.url.endpoint,
            schema=self.url.schema,
            workspace_client=self.workspace,
            **pool,
        )
        return saver


def _host(workspace: WorkspaceClient, url: LakebaseUrl) -> str | None:
    if url.endpoint is not None:
        status = workspace.postgres.get_endpoint(name=url.endpoint).status
        return status.hosts.host if status is not None and status.hosts is not None else None
    return workspace.database.get_database_instance(str(url.instance)).read_write_dns


def _not_found(url: LakebaseUrl, error: Exception) -> StateError:
    from databricks_supervisor.redaction import scrub

    reason = " ".join(scrub(str(error)).split()).rstrip(".")
    return StateError(f"SUPERVISOR_STATE_URL: Lakebase {_name(url)} cannot be opened: {reason}.")


def _name(url: LakebaseUrl) -> str:
    return url.endpoint or str(url.instance)


def _quoted(schema: str | None) -> str:
    # In "options" a backslash escapes; in search_path double quotes keep capitals and dashes.
    name = str(schema).replace('"', '""').replace("\\", "\\\\").replace(" ", "\\ ")
    return f'"{name}"'
