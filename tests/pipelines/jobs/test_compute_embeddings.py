"""Features: computed once, from the thumbnail or else the image; what cannot be read is named."""

from dataengine.curation.appearance import APPEARANCE, appearance
from dataengine.images import decode
from pipelines.jobs.compute_embeddings import compute_features
from tests.pipelines.conftest import Played


def test_every_image_has_a_vector_once(played: Played) -> None:
    workspace = played.context.workspace
    first = compute_features(played.context)
    with workspace.catalog(read_only=True) as catalog:
        assert first["images"] == catalog.images.count(status="active") > 0
        assert catalog.features.missing(APPEARANCE) == []
        ids, vectors = catalog.features.of(APPEARANCE, 10)
        image = catalog.images.get(ids[3])
    assert (vectors[3] == appearance(decode(workspace.blobs.get(image.thumbnail or image.sha256)))).all()
    assert compute_features(played.context) == {"features": APPEARANCE, "images": 0}
