"""Losses that pull together what belongs together, and push apart all else."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

from mvtec_ad.errors import DataError


def supcon(embeddings: Tensor, types: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss: every embedding must find all others of its type among all others.

    With z on the unit sphere, P(i) the others of i's type and A(i) all others,

        L = mean over i of  −1/|P(i)| Σ_{p ∈ P(i)} log( exp(z_i·z_p/τ) / Σ_{a ∈ A(i)} exp(z_i·z_a/τ) ).

    Khosla et al. 2020 (arXiv:2004.11362), eq. 2, divided by the number of embeddings. Where every image is a type of
    its own and comes twice, it is `nt_xent`.

    Args:
        embeddings: (N, d) float; their length does not matter.
        types: (N,) int.
        temperature: τ.

    Raises:
        DataError: an embedding is alone of its type.
    """
    directions = functional.normalize(embeddings, dim=1)
    likeness = directions @ directions.T / temperature
    itself = torch.eye(len(types), dtype=torch.bool, device=likeness.device)
    partner = (types[:, None] == types[None, :]) & ~itself
    partners = partner.sum(1)
    if not bool(partners.all()):
        lonely = types[partners == 0][0]
        raise DataError(f"type {int(lonely)} has a single embedding in the batch: a contrast needs two or more")
    log_share = likeness - likeness.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    return -((log_share * partner).sum(1) / partners).mean()


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy: each view must find its partner among all others.

    Chen, Kornblith, Norouzi, Hinton 2020 (arXiv:2002.05709), eq. 1.

    Args:
        first: (N, d) embeddings of one view of each image.
        second: (N, d) embeddings of the other view, in the same order.
        temperature: τ.
    """
    views = functional.normalize(torch.cat([first, second]), dim=1)
    likeness = views @ views.T / temperature
    likeness.fill_diagonal_(-torch.inf)
    count = len(first)
    partner = torch.arange(2 * count, device=views.device).roll(count)
    return functional.cross_entropy(likeness, partner)
