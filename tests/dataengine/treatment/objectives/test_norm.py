"""NormGuard by hand."""

import math

import pytest
import torch

from dataengine.errors import InputRefused
from dataengine.treatment.objectives.norm import log_norm_ratio, norm_hinge


def test_norms_by_hand():
    output = torch.tensor([[3.0, 4.0], [1.0, 0.0]]).reshape(2, 1, 1, 2).requires_grad_()
    reference = torch.tensor([[0.0, 2.0], [0.0, 4.0]]).reshape(2, 1, 1, 2)
    ratio = log_norm_ratio(output, reference)
    assert ratio.tolist() == pytest.approx([math.log(2.5), math.log(0.25)])
    loss = norm_hinge(ratio, 0.1)
    assert float(loss) == pytest.approx((math.log(2.5) - 0.1) / 2)
    loss.backward()
    # d log‖v‖ / dv = v/‖v‖², for the grown one of two images alone.
    assert output.grad.flatten().tolist() == pytest.approx([3 / 25 / 2, 4 / 25 / 2, 0, 0])


@pytest.mark.parametrize("which", [0, 1])
def test_a_norm_of_zero_is_refused(which):
    pair = [torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2)]
    pair[which] = torch.zeros(1, 1, 1, 2)
    with pytest.raises(InputRefused, match="norm of zero"):
        log_norm_ratio(*pair)
