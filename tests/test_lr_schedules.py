"""Learning-rate schedules work for any number of steps."""

import pytest
import torch

from coread.lr_schedules import warmup_cosine


@pytest.mark.parametrize("total_steps", [1, 2, 5, 9, 10, 11, 100])
def test_warmup_cosine_for_any_number_of_steps(total_steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = warmup_cosine(optimizer, total_steps, max_lr=0.5)
    rates = []
    for _ in range(total_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step() if len(rates) < total_steps else None
    assert all(0 < rate <= 0.5 for rate in rates)
    if total_steps == 100:
        assert rates[0] == pytest.approx(0.02)
        assert max(rates) == pytest.approx(0.5)
        assert rates.index(max(rates)) == 9
        assert rates[-1] == pytest.approx(0.02 / 1000)
