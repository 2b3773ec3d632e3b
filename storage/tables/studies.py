"""Tables of studies."""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, Table, Text

from storage.tables.columns import Tuples, json, key, maybe, metadata, number, whole, words

studies = Table(
    "studies",
    metadata,
    key("id"),
    words("name"),
    words("before_id"),
    words("after_id"),
    Column("pairs", Tuples, nullable=False),
    Column("seed", BigInteger, nullable=False),
    words("state"),
    maybe("round_id"),
    json("design"),
    words("created_by"),
    number("created"),
)

votes = Table(
    "votes",
    metadata,
    Column("study_id", Text, ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True),
    Column("pair", Integer, primary_key=True, autoincrement=False),
    key("rater"),
    key("question"),
    words("choice"),
    number("seconds"),
    number("created"),
    Index(None, "rater"),
)

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
