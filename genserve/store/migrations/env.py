"""Runs the migrations on the connection, and in the transaction, of `store.migration`.

There is no `begin_transaction` here: the caller's own undoes everything on SQLite, too.
"""

from alembic import context

from genserve.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
)
context.run_migrations()
