"""Runs the migrations on the connection that `database.Database` gives to alembic, in its transaction."""

from __future__ import annotations

from alembic import context

from atelier.stores.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
