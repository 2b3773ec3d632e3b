"""What every detector must do; a subclass gives one as the fixture `detector`."""

import numpy as np
import torch

from dataengine.diagnosis.detector import Detector


class DetectorContract:
    """Range, shape, gradient, frozen weights, determinism, two doors that agree."""

    def test_confidence_lies_in_range_at_any_size(self, detector: Detector) -> None:
        for count, height, width in ((2, 32, 32), (1, 37, 51), (1, 5, 3), (3, 64, 48)):
            images = torch.rand((count, 3, height, width), generator=torch.Generator().manual_seed(height))
            maps = detector.confidence(images)
            assert maps.shape == (count, height, width)
            assert maps.dtype == torch.float32
            assert maps.min() >= 0 and maps.max() <= 1

    def test_the_answer_depends_on_the_image_and_its_place(self, detector: Detector) -> None:
        images = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(1))
        both = detector.confidence(images)
        assert not torch.allclose(both[0], both[1], atol=1e-6)
        assert torch.allclose(detector.confidence(images[1:]), both[1:], atol=1e-5)

    def test_gradient_reaches_the_images_and_no_weight_moves(self, detector: Detector) -> None:
        detector.requires_grad_(False)
        before = [parameter.detach().clone() for parameter in detector.parameters()]
        images = torch.full((1, 3, 32, 32), 0.5, requires_grad=True)
        detector.confidence(images).mean().backward()
        assert images.grad is not None
        assert torch.isfinite(images.grad).all() and images.grad.abs().sum() > 0
        for parameter, kept in zip(detector.parameters(), before, strict=True):
            assert not parameter.requires_grad and parameter.grad is None
            assert torch.equal(parameter, kept)

    def test_the_same_image_gets_the_same_map(self, detector: Detector) -> None:
        image = np.random.default_rng(2).integers(0, 256, (40, 33, 3), dtype=np.uint8)
        assert np.array_equal(detector.find_artifacts(image), detector.find_artifacts(image))

    def test_both_doors_agree(self, detector: Detector) -> None:
        image = np.random.default_rng(3).integers(0, 256, (45, 38, 3), dtype=np.uint8)
        found = detector.find_artifacts(image)
        assert found.shape == (45, 38) and found.dtype == np.float32
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        assert np.allclose(detector.confidence(tensor)[0].detach().numpy(), found, atol=1e-6)

    def test_it_has_a_name(self, detector: Detector) -> None:
        assert detector.name
