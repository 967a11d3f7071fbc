"""Dictionaries: codes as combinations of few atoms."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

DictionaryKey = Literal["identity", "dct", "learned"]


class Dictionary(nn.Module):
    r"""A code as a combination of atoms, columns of unit norm.

    .. math:: z = D a, \qquad D \in \mathbb R^{m \times N}, \quad \lVert d_n \rVert_2 = 1

    Unit norms make coefficients comparable: no atom is louder than another by itself.

    Shapes: coefficients a (..., N) → codes z (..., m).
    """

    @property
    @abstractmethod
    def matrix(self) -> Tensor:
        """D (m, N)."""

    def forward(self, a: Tensor) -> Tensor:
        """z = D a."""
        return nn.functional.linear(a, self.matrix)


class FixedDictionary(Dictionary):
    """Atoms that are given once and for all; rebuilt with the model, so not among its weights.

    Args:
        matrix: D (m, N), columns of unit norm.

    Raises:
        ValueError: a column is not of unit norm.
    """

    _matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        norms = matrix.norm(dim=0)
        if not torch.allclose(norms, torch.ones_like(norms), atol=1e-4):
            worst = int((norms - 1).abs().argmax())
            raise ValueError(f"Atoms are of unit norm, and column {worst} has norm {norms[worst]:.3g}.")
        self.register_buffer("_matrix", matrix, persistent=False)

    @property
    def matrix(self) -> Tensor:
        """D (m, N)."""
        return self._matrix


class LearnedDictionary(Dictionary):
    """Atoms that are learned with the model, from the over-complete DCT on; their norms stay one.

    Args:
        size, atoms: m and N.
    """

    def __init__(self, size: int, atoms: int) -> None:
        super().__init__()
        self.free = nn.Parameter(dct_atoms(size, atoms))

    @property
    def matrix(self) -> Tensor:
        """D (m, N), the free matrix with its columns scaled to unit norm."""
        return nn.functional.normalize(self.free, dim=0)


def dct_atoms(size: int, atoms: int) -> Tensor:
    r"""The over-complete DCT dictionary (m, N), for any number of atoms, as KSVD-Box's ``odctdict``.

    .. math:: d_1 \propto 1, \qquad d_{n+1}(j) \propto \cos(π n j / N) - \text{its mean over } j, \quad
              j = 0, \dots, m - 1

    Raises:
        ValueError: codes of one dimension, whose atoms would all be zero but one; or no atom.

    Source: Rubinstein, Zibulevsky & Elad, *Efficient implementation of the K-SVD algorithm* (2008).
    """
    if size < 2 or atoms < 1:
        raise ValueError(f"A DCT dictionary has m ≥ 2 and N ≥ 1, not m = {size} and N = {atoms}.")
    j, n = torch.arange(size, dtype=torch.double), torch.arange(1, atoms, dtype=torch.double)
    waves = torch.cos(math.pi / atoms * j[:, None] * n)
    flat = torch.ones(size, 1, dtype=torch.double)
    D = torch.cat([flat, waves - waves.mean(0)], 1)
    return (D / D.norm(dim=0)).float()


def make_dictionary(kind: DictionaryKey, size: int, atoms: int) -> Dictionary:
    """A dictionary of N atoms for codes of size m.

    Raises:
        ValueError: no such kind; or an identity that is not square.
    """
    if kind == "identity":
        if atoms != size:
            raise ValueError(f"The identity has as many atoms as the code is long, {size}, not {atoms}.")
        return FixedDictionary(torch.eye(size))
    if kind == "dct":
        return FixedDictionary(dct_atoms(size, atoms))
    if kind == "learned":
        return LearnedDictionary(size, atoms)
    raise ValueError(f"A dictionary is 'identity', 'dct' or 'learned', not '{kind}'.")
