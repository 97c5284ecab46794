"""Brings a database to the newest schema when it is opened, and refuses one that is newer.

A database that is up to date costs one SELECT; Alembic is imported only for one that is not.
"""

from importlib import resources
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from twin.errors import MissingRequirement, StoreTooNew
from twin.store import schema
from twin.store.engine import Database

if TYPE_CHECKING:
    from alembic.config import Config


def upgrade(database: Database) -> None:
    """Creates or migrates the tables where needed, in one transaction.

    Of several processes that open an old store at once, one does the work and the others wait.
    Raises StoreTooNew where a newer program has written the store.
    """
    with database.reading() as connection:
        if _revision(connection) == schema.REVISION:
            return
    with database.writing() as connection:
        database.one_at_a_time(connection, "upgrade")
        revision = _revision(connection)
        if revision != schema.REVISION:
            _refuse_unsuitable(connection, revision, database.place)
            _run(connection)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _refuse_unsuitable(connection: Connection, revision: str | None, place: str) -> None:
    from alembic.script import ScriptDirectory

    known = {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}
    if revision is not None and revision not in known:
        raise StoreTooNew(
            f"The store {place} was written by a newer version of this program (schema "
            f"{revision}; this one knows up to {schema.REVISION}). Install the newer version, or "
            "move the store away to begin a new one."
        )
    if connection.dialect.name == "postgresql":
        encoding = connection.execute(text("SHOW server_encoding")).scalar()
        if encoding != "UTF8":
            raise MissingRequirement(
                f"The PostgreSQL database {place} is encoded as {encoding}, which cannot hold "
                "every text. Make one with: createdb --encoding=UTF8 --template=template0 NAME"
            )


def _run(connection: Connection) -> None:
    from alembic import command

    settings = config()
    settings.attributes["connection"] = connection
    command.upgrade(settings, "head")


def config() -> "Config":
    """Alembic's settings for the migrations inside this package; no file is needed."""
    from alembic.config import Config

    settings = Config()
    folder = str(resources.files("twin.store") / "migrations")
    settings.set_main_option("script_location", folder.replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    return settings
