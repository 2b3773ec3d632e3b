"""Tables of blind studies beside `studies` and `votes`: who may join, and who joined that way."""

from sqlalchemy import Column, ForeignKey, Index, Table, Text

from storage.columns import key, metadata, number, whole, words

invitations = Table(
    "invitations",
    metadata,
    key("token_hash"),
    Column("study_id", Text, ForeignKey("studies.id", ondelete="CASCADE"), nullable=False),
    words("created_by"),
    number("expires"),
    whole("places"),
    whole("taken"),
    number("created"),
    Index(None, "study_id"),
)

guests = Table(
    "guests",
    metadata,
    Column("name", Text, ForeignKey("users.name", ondelete="CASCADE"), primary_key=True),
    Column("study_id", Text, ForeignKey("studies.id", ondelete="CASCADE"), nullable=False),
    number("created"),
    Index(None, "study_id"),
)
