"""Alembic's entry point; `storage.migrate` passes it the connection with the transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
