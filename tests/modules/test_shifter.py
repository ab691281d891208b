"""Shifters: from the pupil's centre to a shift in grid units."""

import pytest
import torch

from coread.modules.shifter import AffineShifter, MLPShifter


@pytest.mark.parametrize("shifter", [MLPShifter(), AffineShifter()])
def test_a_new_shifter_hardly_shifts_and_can_learn(shifter: torch.nn.Module) -> None:
    pupil = torch.randn(50, 2, generator=torch.Generator().manual_seed(1))
    assert float(shifter(pupil).detach().abs().max()) < 0.5
    target = torch.tanh(pupil @ torch.tensor([[0.3, -0.1], [0.2, 0.4]]))
    optimizer = torch.optim.Adam(shifter.parameters(), lr=0.02)
    errors = []
    for _ in range(150):
        loss = (shifter(pupil) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.05 * errors[0]


def test_names_and_shapes_are_the_published_ones() -> None:
    shapes = {name: tuple(value.shape) for name, value in MLPShifter().state_dict().items()}
    assert shapes == {
        "mlp.0.weight": (5, 2),
        "mlp.0.bias": (5,),
        "mlp.2.weight": (5, 5),
        "mlp.2.bias": (5,),
        "mlp.4.weight": (2, 5),
        "mlp.4.bias": (2,),
    }
    assert list(AffineShifter().state_dict()) == ["weight", "bias"]
    assert list(MLPShifter(bias=False, shift_layers=1).state_dict()) == ["mlp.0.weight"]


def test_offsets_start_at_zero_unless_published() -> None:
    assert not MLPShifter()(torch.zeros(1, 2)).any()
    assert MLPShifter(published_behaviour=True)(torch.zeros(1, 2)).all()


def test_shift_stays_within_the_map() -> None:
    for shifter in (MLPShifter(published_behaviour=True), AffineShifter(init_std=1.0)):
        shift = shifter(100 * torch.randn(30, 2))
        assert shift.shape == (30, 2)
        assert float(shift.detach().abs().max()) <= 1


@pytest.mark.parametrize("kind", [MLPShifter, AffineShifter])
def test_penalty_is_the_weighted_mean_square_of_the_weights(kind: type) -> None:
    assert kind().penalties() == {}
    shifter = kind(gamma_shifter=3.0)
    weights = [parameter for parameter in shifter.parameters() if parameter.dim() == 2]
    mean = torch.cat([weight.flatten() for weight in weights]).square().mean()
    torch.testing.assert_close(shifter.penalties()["weight_l2"], 3 * mean)


def test_a_shifter_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="shift_layers must be at least 1, got 0"):
        MLPShifter(shift_layers=0)
