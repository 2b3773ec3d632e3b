"""Alembic's entry point; `storage.migrate` hands it the connection whose transaction everything runs in."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
