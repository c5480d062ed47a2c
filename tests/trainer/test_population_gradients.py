"""Each member's gradient is clipped by its own norm."""

import torch

from selfmod_hf import SelfModelingForImageClassification
from selfmod_hf.trainer.member_optimizer import clip_grad_norms

from .test_population import MEMBERS, images, population


class Scaled(SelfModelingForImageClassification):
    """A network with a weight that is a single number, as some encoders of timm have."""

    def __init__(self, config):
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, pixel_values, **kwargs):
        return super().forward(pixel_values * self.scale, **kwargs)


def test_gradients_of_single_numbers_are_clipped_with_the_others():
    model = population(model_class=Scaled)
    pixels, labels = images(32).all()
    model(pixels.double(), labels=labels)["loss"].backward()
    before = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    assert any(gradient.shape == (len(MEMBERS),) for gradient in before)
    norms = clip_grad_norms(model.parameters(), 0.05)
    expected = torch.stack([torch.cat([gradient[k].flatten() for gradient in before]).norm() for k in range(5)])
    torch.testing.assert_close(norms, expected)
    after = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    for gradient, whole in zip(after, before, strict=True):
        share = (0.05 / expected).clamp(max=1).view(-1, *[1] * (whole.dim() - 1))
        torch.testing.assert_close(gradient, whole * share, rtol=1e-4, atol=0)
