"""What is computed once for the same arguments, and what is another call."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrodvae.once import Once, once

calls: list[float] = []


@once
def scaled(x: Tensor, by: float = 1.0) -> Tensor:
    calls.append(by)
    return by * x


def test_named_arguments_count() -> None:
    x, double, triple = torch.ones(2), 2.0, 3.0
    calls.clear()
    with Once():
        for by in (double, triple, double):
            assert scaled(x, by=by).tolist() == [by, by]
        assert scaled(x).tolist() == [1, 1]
    assert calls == [2, 3, 1]
