"""Tables of the workspace's identity and of the settings that an admin may change."""

from sqlalchemy import Table

from storage.tables.columns import float_, json, key, metadata

workspace = Table("workspace", metadata, key("id"), float_("created"))

settings = Table("settings", metadata, key("name"), json("value"))
