"""What every test stands on: one thread, fixed seeds, an empty parameter store, data folders."""

import os
import random
from pathlib import Path

import hypothesis
import numpy as np
import pyro
import pytest
import torch
from runs import corpus, small, uninterrupted  # noqa: F401 (fixtures)

os.environ.setdefault("MPLBACKEND", "Agg")  # no test opens a window
torch.set_num_threads(1)  # reductions in one order: the same numbers on every machine
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def fresh_state():
    """Seed every generator and empty Pyro's parameter store, so that no test depends on another."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (third parties still draw from the global generator)
    torch.manual_seed(0)
    pyro.set_rng_seed(0)
    pyro.clear_param_store()


def _folder(variable: str, name: str) -> Path:
    beside = Path(__file__).resolve().parents[2] / "shared" / name
    path = Path(os.environ.get(variable) or beside)
    if not path.is_dir():
        pytest.skip(f"no folder {path}: set {variable} to run this test")
    return path


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real recordings, with their MANIFEST.tsv."""
    return _folder("PYRODVAE_DATA", "data")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Numbers from independent implementations."""
    return _folder("PYRODVAE_GOLDEN", "golden")
