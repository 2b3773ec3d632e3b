"""The import page at /import."""

from pathlib import Path

from ui.importing.routes import IMPORTERS, PIECE, import_routes
from ui.web.desk import Desk

DESK = Desk(
    folder=Path(__file__).parent,
    path="/import",
    title="Import",
    caption="Upload images and masks, or import a folder of the server.",
    roles=IMPORTERS,
    api={"/api/import": IMPORTERS},
    large_bodies=frozenset({PIECE}),
    routers=lambda site: [import_routes(site.workspace, site.settings)],
)
