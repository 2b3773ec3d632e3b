"""What licences forbid by their names."""

import pytest

from dataengine.diagnosis.config import NVIDIA_LICENCE
from dataengine.licences import forbidden_by, inherited_licence


@pytest.mark.parametrize(
    ("licence", "forbidden"),
    [
        ("Apache-2.0", ""),
        ("MIT", ""),
        ("BSD-3-Clause", ""),
        ("CC0-1.0", ""),
        ("cc-by-sa-4.0", ""),
        ("openrail++", ""),
        ("unstated", ""),
        ("", ""),
        ("Ancient licence of and", ""),
        (NVIDIA_LICENCE, "commercial use"),
        ("CC-BY-NC-4.0", "commercial use"),
        ("cc_by_nc_sa_4.0", "commercial use"),
        ("CC BY-NC 2.0", "commercial use"),
        ("flux-1-dev-non-commercial-license", "commercial use"),
        ("noncommercial", "commercial use"),
        ("for research use only", "commercial use"),
        ("academic purposes", "commercial use"),
        ("CC-BY-ND-4.0", "adapted works"),
        ("No Derivatives", "adapted works"),
        ("CC-BY-NC-ND-4.0", "commercial use and adapted works"),
        ("all rights reserved", "any use without permission"),
    ],
)
def test_what_a_licence_forbids(licence: str, forbidden: str) -> None:
    assert forbidden_by(licence) == forbidden


@pytest.mark.parametrize(
    ("licence", "images", "inherited"),
    [
        ("Apache-2.0", [], "Apache-2.0"),
        ("Apache-2.0", ["MIT", "", "CC0-1.0"], "Apache-2.0"),
        ("Apache-2.0", ["CC-BY-NC-4.0", "MIT"], "Apache-2.0; trained on images under CC-BY-NC-4.0"),
        ("MIT", ["CC-BY-ND-4.0", "CC-BY-NC-4.0"], "MIT; trained on images under CC-BY-NC-4.0, CC-BY-ND-4.0"),
        ("", ["CC-BY-NC-4.0"], "trained on images under CC-BY-NC-4.0"),
    ],
)
def test_a_model_inherits_what_its_images_forbid(licence: str, images: list[str], inherited: str) -> None:
    assert inherited_licence(licence, images) == inherited
    assert inherited_licence(inherited, images) == inherited, "training on does not repeat it"
