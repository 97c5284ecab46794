"""What Alembic runs around a migration: the caller's connection, inside the caller's transaction.

Commits nothing: `twin.store.upgrade` does, so that an interrupted migration leaves nothing behind.
"""

from alembic import context

from twin.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
