"""Callbacks that act on an optimizer's state."""

import torch
from transformers import TrainerCallback

from .test_trainer import trainer

STEPS = 100  # tiny moments are flushed after these


class Push(TrainerCallback):
    """Sets every momentum to 1e-3 after one step, and has each gradient vanish from then on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        if state.global_step == self.step:
            for moments in optimizer.state.values():
                moments["momentum_buffer"].fill_(1e-3)

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step >= self.step:
            for parameter in model.parameters():
                parameter.grad.zero_()


def moments_after(tmp_path, halvings: int) -> torch.Tensor:
    run = trainer(tmp_path, max_steps=STEPS, optim_args="momentum=0.5", logging_strategy="no", use_cpu=True)
    run.add_callback(Push(STEPS - halvings))
    run.train()
    return torch.cat([moments["momentum_buffer"].flatten() for moments in run.optimizer.state.values()])


def test_moments_that_may_still_move_a_weight_are_kept(tmp_path):
    """1e-3 halved 20 times is 1e-9, 80 times 8e-28."""
    for halvings in (20, 80):
        expected = torch.tensor(1e-3) * 0.5**halvings
        assert torch.equal(moments_after(tmp_path, halvings).unique(), expected.view(1))


def test_moments_that_are_about_to_be_denormal_are_set_to_zero(tmp_path):
    """1e-3 halved 95 times is 3e-32."""
    assert not moments_after(tmp_path, 95).any()
