"""No column of the catalog is forgotten when a person or an image is erased."""

import pytest
from sqlalchemy import JSON, Column, LargeBinary, MetaData, Table, Text, TypeDecorator
from sqlalchemy.types import String

from storage.maintenance.personal_columns import IMAGE, IMPERSONAL, PERSON, Handling
from storage.tables import metadata

TEXTS = (String, JSON, LargeBinary, TypeDecorator)


def text_columns(of: MetaData) -> set[str]:
    """Every column that could hold a name."""
    return {
        f"{table.name}.{column.name}"
        for table in of.sorted_tables
        for column in table.c
        if isinstance(column.type, TEXTS)
    }


def forgotten(of: MetaData) -> set[str]:
    return text_columns(of) - PERSON.keys() - IMAGE.keys() - IMPERSONAL


def test_every_column_is_handled_or_holds_no_name() -> None:
    assert len(text_columns(metadata)) > 150
    assert not forgotten(metadata), "write these columns into storage/maintenance/personal_columns.py"


def test_no_table_names_a_column_that_is_gone() -> None:
    assert {*PERSON, *IMAGE, *IMPERSONAL} <= text_columns(metadata)
    assert not IMPERSONAL & {*PERSON, *IMAGE}


@pytest.mark.parametrize("kind", [Text(), JSON(), LargeBinary()])
def test_a_new_column_would_be_seen(kind: Text | JSON | LargeBinary) -> None:
    fresh = MetaData()
    Table("labels", fresh, Column("author", Text, primary_key=True), Column("second_author", kind))
    assert forgotten(fresh) == {"labels.second_author"}


@pytest.mark.parametrize("columns", [PERSON, IMAGE])
def test_what_goes_along_is_bound_to_a_row_that_goes(columns: dict[str, Handling]) -> None:
    """Directly or by way of another table, with ON DELETE CASCADE."""
    going = {place.partition(".")[0] for place, how in columns.items() if how == "delete"}
    for _ in range(3):
        for table in metadata.sorted_tables:
            cascades = [one for one in table.foreign_key_constraints if one.ondelete == "CASCADE"]
            if any(one.referred_table.name in going for one in cascades):
                going.add(table.name)
    assert {place.partition(".")[0] for place, how in columns.items() if how == "goes along"} <= going
