"""Read a selection of images as it stands in the address of the Curate page."""

from collections.abc import Sequence
from urllib.parse import parse_qsl, urlsplit

from pydantic import ValidationError

from dataengine.errors import InputRefused
from pipelines.selections.config import ImageQuery

PAGING = ("view", "image", "like", "sort", "after", "limit")
"""Parts of an address that say what is shown of the images, not which are meant."""


def parse_query(words: Sequence[str], search: str | None = None) -> ImageQuery:
    """The selection that these words name: `source=imported category=hand`, or a link to /curate; with
    `search` only images whose prompt it finds.

    Raises `InputRefused` naming the word that is wrong, and the names there are.
    """
    values: dict[str, str] = {} if search is None else {"search": search}
    for word in words:
        for name, value in _pairs(word):
            if name in PAGING:
                continue
            if name in values:
                raise InputRefused(f"{name} is given twice; a selection has one {name}")
            values[name] = value
    names = [field.alias or name for name, field in ImageQuery.model_fields.items()]
    if unknown := sorted(values.keys() - set(names)):
        raise InputRefused(f"images have no {unknown[0]!r} to select by; choose from {', '.join(names)}")
    try:
        query = ImageQuery.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputRefused(f"{first['loc'][0]}={first.get('input')}: {first['msg']}") from None
    if query.state == "refused":
        raise InputRefused("refused images are not worked on; select by another state")
    return query


def _pairs(word: str) -> list[tuple[str, str]]:
    query = urlsplit(word).query if "?" in word else word
    try:
        if word.strip():  # an empty one is a variable that was never set, and would mean every image
            return parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        pass
    raise InputRefused(f"{word!r} is no selection of images; expected NAME=VALUE, such as source=imported")
