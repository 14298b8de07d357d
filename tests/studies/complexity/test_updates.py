"""Critical sharpness along updates of optimisers and gradients of other losses, in the memory of the model alone."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from test_flatness import quadratic
from torch import Tensor, nn

import landscape as ls
from landscape.studies.complexity import updates
from landscape.studies.complexity.critical import loss_and_gradient, memory_told, search
from landscape.studies.complexity.updates import descent, direction_of

D = [-0.3, 0.2, 0.1]


def flat(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


@pytest.fixture(scope="module")
def mlp() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3))
    x = torch.randn(96, 6)
    return net, (x, (x[:, :3] + 0.5 * torch.randn(96, 3)).argmax(1))


def test_all_forms_of_a_direction_are_one(tmp_path: Path) -> None:
    of, H, g = quadratic([1.0, -2, 0.5])
    d = torch.tensor(D, dtype=torch.float64)
    d = d * -torch.sign(g @ d)
    named = {"weight": d[None].clone()}
    save_file(named, tmp_path / "d.safetensors")
    torch.save(named, tmp_path / "d.pt")
    right = float(d @ H @ d / (-g @ d))
    forms: list[Any] = [d, named, tmp_path / "d.safetensors", str(tmp_path / "d.pt"), lambda name: named[name]]
    for form in forms:
        assert float(ls.critical_sharpness(of, form)) == pytest.approx(right, rel=1e-6)


def test_relative_to_another_loss() -> None:
    """2 / (the largest step down the gradient of one loss that does not raise the other one)."""
    of, H, g = quadratic([1.0, -2, 0.5])
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(12, 1, generator=generator, dtype=torch.float64)
    other = of.elsewhere((x, y))
    theta = of.theta
    g2 = 2 * x.T @ (x @ theta[:, None] - y) / 12
    d = -g2.flatten()
    assert float(g @ d) < 0
    found = ls.critical_sharpness(of, other)
    assert float(found) == pytest.approx(float(d @ H @ d / (-g @ d)), rel=1e-6)
    assert found.stderr > 0
    eta = 2 / float(found)  # the definition itself
    rise = [
        float(of.evaluate(theta + eta * part * d)["loss"]) - float(of.evaluate()["loss"]) for part in (0.999, 1.001)
    ]
    assert rise[0] < 0 < rise[1]
    with pytest.raises(ls.InputError, match="other parameters"):
        ls.critical_sharpness(of, quadratic([1.0, 2, 0.5])[0])


@pytest.mark.parametrize("kind", ["adam", "adamw", "amsgrad", "sgd"])
def test_the_state_of_an_optimiser_is_its_last_step(kind: str, mlp: Any, tmp_path: Path) -> None:
    net, (x, y) = deepcopy(mlp[0]), mlp[1]
    named = net.named_parameters()
    rate = 1e-3
    optimiser: Any = {
        "adam": lambda: torch.optim.Adam(named, lr=rate, weight_decay=0.02),
        "adamw": lambda: torch.optim.AdamW(named, lr=rate, weight_decay=0.1),
        "amsgrad": lambda: torch.optim.Adam(named, lr=rate, amsgrad=True),
        "sgd": lambda: torch.optim.SGD(named, lr=rate, momentum=0.9, weight_decay=0.1),
    }[kind]()
    for step in range(3):
        before = flat(net).double()
        optimiser.zero_grad()
        F.cross_entropy(net(x[step::3]), y[step::3]).backward()
        optimiser.step()
    update = (flat(net).double() - before) / rate
    torch.save({"optimizer": optimiser.state_dict(), "epoch": 3}, tmp_path / "state.pt")
    of = ls.Objective(net, data=(x, y))
    read = direction_of(of, tmp_path / "state.pt")
    found = torch.cat([read(piece) for piece in map(_whole, of.layout.blocks)])
    assert (
        float((found - update).norm() / update.norm()) < 3e-4
    )  # differences of float32 parameters, and w (theta moves)
    along = search(of, tmp_path / "state.pt")
    assert along.passes < 10
    assert float(along.value) == pytest.approx(float(search(of, update).value), rel=3e-3)
    for held in (optimiser, optimiser.state_dict()):
        assert float(ls.critical_sharpness(of, held)) == float(along.value)


@pytest.mark.parametrize("kind", ["adamw", "maximised adam", "maximised sgd"])
def test_decay_is_of_the_weights_before_the_step_and_maximising_states_descend(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, rate = nn.Linear(5, 3).double(), 0.1
    optimiser: Any = {
        "adamw": lambda: torch.optim.AdamW(net.named_parameters(), lr=rate, weight_decay=0.5),
        "maximised adam": lambda: torch.optim.AdamW(net.named_parameters(), lr=rate, weight_decay=0.5, maximize=True),
        "maximised sgd": lambda: torch.optim.SGD(net.named_parameters(), lr=rate, momentum=0.9, maximize=True),
    }[kind]()
    x, y = torch.randn(20, 5).double(), torch.randint(3, (20,))
    for _ in range(2):
        before = flat(net)
        optimiser.zero_grad()
        loss = F.cross_entropy(net(x), y)
        (-loss if "maximised" in kind else loss).backward()
        optimiser.step()
    torch.save(optimiser.state_dict(), tmp_path / "state.pt")
    of = ls.Objective(net, data=(x, y))
    read = direction_of(of, tmp_path / "state.pt")
    found = torch.cat([read(piece) for piece in map(_whole, of.layout.blocks)])
    torch.testing.assert_close(found, (flat(net) - before) / rate, rtol=1e-10, atol=1e-12)


def test_transposed_tensors_are_no_direction(mlp: Any, tmp_path: Path) -> None:
    net, data = mlp
    of = ls.Objective(net, data=data)
    right = {name: -p.detach() for name, p in net.named_parameters()}
    turned = {name: value.T.contiguous() if value.ndim == 2 else value for name, value in right.items()}
    save_file(turned, tmp_path / "turned.safetensors")
    torch.save(turned, tmp_path / "turned.pt")
    for given in (turned, turned.__getitem__, tmp_path / "turned.safetensors", tmp_path / "turned.pt"):
        with pytest.raises(ls.InputError, match=r"has shape \(6, 9\).*\(9, 6\)"):
            ls.critical_sharpness(of, given)
    as_vectors = direction_of(of, {name: value.reshape(-1) for name, value in right.items()})
    for block in of.layout.blocks:
        assert torch.equal(as_vectors(_whole(block)), right[block.name].reshape(-1))


def _whole(block: Any) -> Any:
    from landscape_kernels.pieces import Piece

    return Piece(block, 0, block.size)


def test_states_that_do_not_say_their_update_are_refused(mlp: Any, tmp_path: Path) -> None:
    net, (x, y) = deepcopy(mlp[0]), mlp[1]
    of = ls.Objective(net, data=(x, y))
    first, last = list(net[0].parameters()), list(net[2].parameters())
    for optimiser, told in (
        (torch.optim.SGD(net.named_parameters(), lr=0.1, momentum=0.9, nesterov=True), "Nesterov"),
        (torch.optim.NAdam(net.named_parameters()), "callable"),
        (torch.optim.RMSprop(net.named_parameters(), momentum=0.9), "callable"),
        (torch.optim.Adam([{"params": last}, {"params": first}]), "no names"),
        (torch.optim.Adam([*last, *first]), "in another order"),
        (torch.optim.SGD(net.named_parameters(), lr=0.1), "leave direction out"),
    ):
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
        torch.save(optimiser.state_dict(), tmp_path / "state.pt")
        with pytest.raises(ls.InputError, match=told):
            direction_of(of, tmp_path / "state.pt")
    torch.save({"0.weight": torch.zeros(9, 6)}, tmp_path / "part.pt")
    for given, told in (
        (tmp_path / "none.pt", "does not exist"),
        (tmp_path / "part.pt", "nothing for parameter '0.bias'"),
        (lambda _: torch.zeros(2), "has shape"),
    ):
        with pytest.raises(ls.InputError, match=told):
            ls.critical_sharpness(of, given)


def test_the_momentum_of_muon_is_not_its_update(tmp_path: Path) -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    net = nn.Linear(4, 3, bias=False)
    optimiser = torch.optim.Muon(net.named_parameters(), lr=0.1, nesterov=False)
    net(torch.ones(2, 4)).sum().backward()
    optimiser.step()
    torch.save(optimiser.state_dict(), tmp_path / "state.pt")
    of = ls.Objective(net, data=(torch.randn(6, 4), torch.randint(3, (6,))))
    with pytest.raises(ls.InputError, match="momentum_buffer of weight"):
        direction_of(of, tmp_path / "state.pt")


def test_a_model_in_its_own_memory_has_the_same_values(mlp: Any, tmp_path: Path) -> None:
    net, data = mlp
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    held, live = ls.Objective(net, data=data), ls.Objective(net, data=data, checkpoint=tmp_path / "net.safetensors")
    assert live.centre.in_place
    own = flat(net)
    _, gradient = loss_and_gradient(held, held.theta)
    one, other = search(held, -gradient), search(live, -gradient)
    assert (float(one.value), one.value.stderr, one.passes) == (float(other.value), other.value.stderr, other.passes)
    filed = descent(live)
    found = torch.cat([filed(piece) for piece in map(_whole, live.layout.blocks)])
    assert torch.allclose(found, -gradient, rtol=1e-4, atol=1e-7)
    assert float(ls.critical_sharpness(live)) == pytest.approx(float(ls.critical_sharpness(held)), rel=1e-4)
    assert torch.equal(flat(net), own)
    assert all(p.grad is None for p in net.parameters())
    assert "in the model itself" in memory_told(live)
    assert "temporary file" in memory_told(live)


def test_a_model_that_was_written_to_is_refused(mlp: Any, tmp_path: Path) -> None:
    """Also where torch does not count it: points would be made of the file, and the start of what the model holds."""
    net, data = deepcopy(mlp[0]), mlp[1]
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    live = ls.Objective(net, data=data, checkpoint=tmp_path / "net.safetensors")
    net[0].bias.data.add_(1)
    changed = flat(net)
    for direction in (None, torch.ones(live.layout.size)):
        with pytest.raises(ls.InputError, match="changed after the objective was made"):
            ls.critical_sharpness(live, direction)
    assert torch.equal(flat(net), changed)


def test_a_loss_that_levels_off_takes_few_passes() -> None:
    """It falls as exp(-t) and is up again at t = 200: steps have to grow by more than the first one."""
    x = torch.ones(2, 1, dtype=torch.float64)
    net = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(net.weight)
    objective = ls.Objective(net, lambda out, _: torch.exp(-out.flatten()) + (out.flatten() / 200) ** 2, (x, x))
    found = search(objective)
    assert float(found.value) == pytest.approx(2 / 200, rel=1e-2)
    assert found.passes < 25


def test_a_loss_that_is_flat_far_away_takes_few_passes_from_there() -> None:
    """Its first step is the loss over the slope, far beyond the other side: steps have to shrink by more than that."""
    x = torch.ones(2, 1, dtype=torch.float64)
    net = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(net.weight, 30.0)
    objective = ls.Objective(net, lambda out, _: 1 - 1 / (1 + out.flatten() ** 2), (x, x))
    found = search(objective)
    assert float(found.value) == pytest.approx(2 / 901**2, rel=1e-2)  # there it is at minus theta
    assert found.passes < 25


def test_a_disk_without_room_for_the_gradient_is_refused(mlp: Any, tmp_path: Path, monkeypatch: Any) -> None:
    net, data = mlp
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    live = ls.Objective(net, data=data, checkpoint=tmp_path / "net.safetensors")
    monkeypatch.setattr(updates.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    for given in (None, live.elsewhere(data)):
        with pytest.raises(ls.InputError, match=r"0\.363 KiB of disk.*TMPDIR"):
            ls.critical_sharpness(live, given)


def test_half_precision_is_moved_in_float32(mlp: Any) -> None:
    half, (x, y) = deepcopy(mlp[0]).bfloat16(), mlp[1]
    wide = deepcopy(half).float()
    x = x.bfloat16().float()
    exact, own = ls.Objective(wide, data=(x, y)), ls.Objective(half, data=(x.bfloat16(), y), precision="own")
    _, gradient = loss_and_gradient(exact, exact.theta)
    assert float(ls.critical_sharpness(own, -gradient)) == pytest.approx(
        float(ls.critical_sharpness(exact, -gradient)), rel=1e-3
    )
    assert float(ls.critical_sharpness(own)) == pytest.approx(float(ls.critical_sharpness(exact)), rel=0.02)


def test_a_number_or_a_module_is_no_direction() -> None:
    torch.manual_seed(0)
    objective = ls.Objective(torch.nn.Linear(4, 3), data=(torch.randn(6, 4), torch.arange(6) % 3))
    with pytest.raises(ls.InputError, match="direction=3 is a number; give a vector"):
        ls.critical_sharpness(objective, 3)
    with pytest.raises(ls.InputError, match="direction is a module, Linear; give a vector"):
        ls.critical_sharpness(objective, torch.nn.Linear(4, 3))
