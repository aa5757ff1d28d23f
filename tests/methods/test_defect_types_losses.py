"""Contrastive losses against loops over their equations, numbers by hand, and numerical gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mvtec_ad.errors import DataError
from mvtec_ad.methods import pretraining
from mvtec_ad.methods.defect_types import nt_xent, supcon

UNEVEN = torch.tensor([2, 0, 1, 0, 2, 0, 7, 1, 7, 0])


def embedded(count: int, size: int = 6, seed: int = 0) -> Tensor:
    """(count, size) float64 embeddings of many lengths."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(count, size)) * rng.uniform(0.1, 10, (count, 1)))


def circle(*degrees: float) -> Tensor:
    """Unit vectors in the plane, (N, 2) float64."""
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], 1)


def supcon_by_loops(embeddings: np.ndarray, types: np.ndarray, temperature: float) -> float:
    """Eq. 2 of arXiv:2004.11362, as it is printed, over the number of embeddings."""
    z = [row / np.sqrt((row**2).sum()) for row in embeddings]
    total = 0.0
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positive = [p for p in others if types[p] == types[i]]
        share = sum(np.exp(z[i] @ z[a] / temperature) for a in others)
        total += -1 / len(positive) * sum(np.log(np.exp(z[i] @ z[p] / temperature) / share) for p in positive)
    return total / len(z)


def nt_xent_by_loops(first: np.ndarray, second: np.ndarray, temperature: float) -> float:
    """Eq. 1 of arXiv:2002.05709 for both orders of every pair, averaged."""
    z = [
        row for pair in zip(first, second, strict=True) for row in pair
    ]  # partners stand side by side, as in the paper

    def similarity(i: int, k: int) -> float:
        return z[i] @ z[k] / (np.linalg.norm(z[i]) * np.linalg.norm(z[k])) / temperature

    def pair(i: int, j: int) -> float:
        return -np.log(np.exp(similarity(i, j)) / sum(np.exp(similarity(i, k)) for k in range(len(z)) if k != i))

    return float(np.mean([pair(i, i + 1) + pair(i + 1, i) for i in range(0, len(z), 2)])) / 2


@pytest.mark.parametrize("temperature", [0.07, 0.5, 3.0])
def test_supcon_is_equation_2(temperature: float) -> None:
    """With types of two, three and four embeddings, in no order."""
    embeddings = embedded(10)
    expected = supcon_by_loops(embeddings.numpy(), UNEVEN.numpy(), temperature)
    assert supcon(embeddings, UNEVEN, temperature).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 3.0])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_nt_xent_is_equation_1(count: int, temperature: float) -> None:
    """Of one image alone too: then there is nothing to confuse it with, and the loss is 0."""
    first, second = embedded(count, seed=1), embedded(count, seed=2)
    expected = nt_xent_by_loops(first.numpy(), second.numpy(), temperature)
    assert nt_xent(first, second, temperature).item() == pytest.approx(expected, rel=1e-6, abs=1e-9)
    if count == 1:
        assert expected == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 3.0])
def test_a_type_for_each_image_makes_supcon_nt_xent(temperature: float) -> None:
    """Both views of image i are of type i."""
    first, second = embedded(6, seed=3), embedded(6, seed=4)
    both = supcon(torch.cat([first, second]), torch.arange(6).repeat(2), temperature)
    assert both.item() == pytest.approx(nt_xent(first, second, temperature).item(), rel=1e-9)


def test_three_of_one_type_by_hand() -> None:
    """Two at 0° and one at 90° are of type 0, two at 90° of type 1: equal directions have cosine 1, others 0."""
    e = np.e
    at_0 = -(np.log(e / (e + 3)) + np.log(1 / (e + 3))) / 2  # its partners: the other at 0°, and one at 90°
    at_90 = -np.log(1 / (2 * e + 2))  # both partners at 0°
    of_1 = -np.log(e / (2 * e + 2))
    expected = (2 * at_0 + at_90 + 2 * of_1) / 5
    loss = supcon(circle(0, 0, 90, 90, 90), torch.tensor([0, 0, 0, 1, 1]), 1.0)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def losses() -> list[Callable[[Tensor], Tensor]]:
    """Both losses as functions of ten embeddings."""
    return [lambda z: supcon(z, UNEVEN, 0.4), lambda z: nt_xent(z[:5], z[5:], 0.4)]


@pytest.mark.parametrize("loss", losses(), ids=["supcon", "nt_xent"])
def test_only_directions_count(loss: Callable[[Tensor], Tensor]) -> None:
    """Gradients are those of torch's own check, and none points along an embedding; nothing is changed in place. Equal
    vectors leave a choice among nine, with finite gradients, in float32."""
    embeddings = embedded(10, 3, seed=5).requires_grad_()
    before = embeddings.detach().clone()
    assert torch.autograd.gradcheck(loss, (embeddings,))
    loss(embeddings).backward()
    assert torch.equal(embeddings.detach(), before)
    inward = (embeddings.grad * before).sum(1)  # longer or shorter: no difference
    torch.testing.assert_close(inward, torch.zeros(10, dtype=torch.float64), atol=1e-9, rtol=0)
    stretched = before * torch.logspace(-4, 4, 10, dtype=torch.float64)[:, None]
    assert loss(stretched).item() == pytest.approx(loss(before).item(), rel=1e-9)
    assert loss(before + 1).item() != pytest.approx(loss(before).item(), rel=1e-3)
    equal = torch.full((10, 4), 1e3).requires_grad_()
    value = loss(equal)
    assert value.item() == pytest.approx(np.log(9), rel=1e-5)
    value.backward()
    assert equal.grad.isfinite().all()


def test_order_and_names_of_types_do_not_matter() -> None:
    """Types may be any integers; a permutation of the batch changes nothing; other images of a type do."""
    embeddings = embedded(10, seed=7)
    value = supcon(embeddings, UNEVEN, 0.3).item()
    order = torch.from_numpy(np.random.default_rng(0).permutation(10))
    assert supcon(embeddings[order], 100 - 3 * UNEVEN[order], 0.3).item() == pytest.approx(value, rel=1e-9)
    assert supcon(embeddings, UNEVEN.roll(1), 0.3).item() != pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("temperature", [1e-4, 1e-2, 1e4])
def test_extreme_temperatures_stay_finite(temperature: float) -> None:
    """Value and gradient, in float32: where a wrong one is nearer, the loss is that gap over τ; hot, it is log 3."""
    vectors = circle(0, 90, 1, 91).float().requires_grad_()  # types 0, 0, 1, 1: the wrong one is 1° away
    for value in (
        supcon(vectors, torch.tensor([0, 0, 1, 1]), temperature),
        nt_xent(vectors[[0, 2]], vectors[[1, 3]], temperature),
    ):
        angles = np.radians([0, 90, 1, 91])
        cosines = np.cos(angles[:, None] - angles) / temperature
        np.fill_diagonal(cosines, -np.inf)
        expected = np.mean(np.logaddexp.reduce(cosines, axis=1) - cosines[np.arange(4), [1, 0, 3, 2]])
        assert value.item() == pytest.approx(expected, rel=1e-4)
        (gradient,) = torch.autograd.grad(value, vectors)
        assert gradient.isfinite().all()
    if temperature == 1e4:
        assert expected == pytest.approx(np.log(3), abs=1e-3)


def test_an_embedding_of_length_zero_has_no_direction() -> None:
    """It is as far from all: finite, with a finite gradient."""
    embeddings = torch.cat([torch.zeros(1, 3), torch.eye(3)]).requires_grad_()
    loss = supcon(embeddings, torch.tensor([0, 0, 1, 1]), 1.0)
    assert loss.item() == pytest.approx(np.log(3))  # all cosines are 0
    loss.backward()
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize(("types", "lonely"), [([0, 0, 5], 5), ([3, 1, 1, 1], 3), ([4], 4)])
def test_a_lonely_type_is_refused(types: list[int], lonely: int) -> None:
    """It is named, in one line."""
    with pytest.raises(DataError, match=rf"type {lonely} has a single embedding in the batch: .* two or more"):
        supcon(embedded(len(types)), torch.tensor(types), 0.1)


def test_pretraining_uses_the_same_loss() -> None:
    """One function, in one place."""
    assert pretraining.nt_xent is nt_xent
