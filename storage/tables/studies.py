"""Tables of studies."""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, Table, Text

from storage.tables.columns import Tuples, float_, integer, json, key, metadata, optional_text, text

studies = Table(
    "studies",
    metadata,
    key("id"),
    text("name"),
    text("before_id"),
    text("after_id"),
    Column("pairs", Tuples, nullable=False),
    Column("seed", BigInteger, nullable=False),
    text("state"),
    optional_text("round_id"),
    json("design"),
    text("created_by"),
    float_("created"),
)

votes = Table(
    "votes",
    metadata,
    Column("study_id", Text, ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True),
    Column("pair", Integer, primary_key=True, autoincrement=False),
    key("rater"),
    key("question"),
    text("choice"),
    float_("seconds"),
    float_("created"),
    Index(None, "rater"),
)

invitations = Table(
    "invitations",
    metadata,
    key("token_hash"),
    Column("study_id", Text, ForeignKey("studies.id", ondelete="CASCADE"), nullable=False),
    text("created_by"),
    float_("expires"),
    integer("places"),
    integer("taken"),
    float_("created"),
    Index(None, "study_id"),
)

guests = Table(
    "guests",
    metadata,
    Column("name", Text, ForeignKey("users.name", ondelete="CASCADE"), primary_key=True),
    Column("study_id", Text, ForeignKey("studies.id", ondelete="CASCADE"), nullable=False),
    float_("created"),
    Index(None, "study_id"),
)
