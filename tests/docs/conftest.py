"""A live server for the pages that need one."""

from tests.ui.client.conftest import token_of
from tests.ui.conftest import live, templates

__all__ = ["live", "templates", "token_of"]
