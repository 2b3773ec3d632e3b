"""The table of the workspace's identity."""

from sqlalchemy import Table

from storage.tables.columns import float_, key, metadata

workspace = Table("workspace", metadata, key("id"), float_("created"))
