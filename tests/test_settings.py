"""Settings given as text: the right type in the right dataclass, or a sentence."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Literal

import pytest

from pyrodvae.engines import ENGINES, MALA
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.settings import apply, describe
from pyrodvae.trainer import TrainConfig


@dataclass(frozen=True)
class One:
    number: int = 1
    share: float = 0.5
    switch: bool = False
    name: str = "a"
    choice: Literal["left", "right"] = "left"
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Two:
    number: int = 7
    other: int = 8


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("number=3", 3),
        ("number = -3 ", -3),
        ("share=2", 2.0),
        ("share=1e-3", 1e-3),
        ("switch=true", True),
        ("switch=No", False),
        ("name=b=c", "b=c"),
        ("name=", ""),
        ("choice=right", "right"),
    ],
)
def test_values_have_the_type_of_their_field(text: str, value: object) -> None:
    before = One()
    (after,) = apply([text], before)
    found = getattr(after, text.partition("=")[0].strip())
    assert (found, type(found)) == (value, type(value))
    assert before == One()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("number", "A setting is written key=value, not 'number'."),
        ("=3", "A setting is written key=value, not '=3'."),
        ("no=3", "No setting is called 'no'; there are: number, share, switch, name, choice, shape, other."),
        ("number=3.5", "The setting 'number' takes a whole number, not '3.5'."),
        ("number=", "The setting 'number' takes a whole number, not ''."),
        ("share=much", "The setting 'share' takes a finite number, not 'much'."),
        ("share=nan", "The setting 'share' takes a finite number, not 'nan'."),
        ("share=inf", "The setting 'share' takes a finite number, not 'inf'."),
        ("switch=2", "The setting 'switch' takes true or false, not '2'."),
        ("choice=up", "The setting 'choice' takes 'left' or 'right', not 'up'."),
        ("shape=1,2", "The setting 'shape' cannot be given as text."),
    ],
)
def test_refusals(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(sentence) + "$"):
        apply([text], One(), Two())


def test_a_key_is_set_wherever_it_exists_and_the_last_one_counts() -> None:
    assert apply(["number=3", "other=4", "number=5"], One(), Two()) == [One(number=5), Two(5, 4)]


def test_the_dataclass_has_the_last_word() -> None:
    with pytest.raises(ValueError, match="iterations must be a whole number from 1 to 10000, not 0"):
        apply(["iterations=0"], EnhanceConfig())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("iterations=10001", "iterations must be a whole number from 1 to 10000, not 10001."),
        ("chains=10000", "chains must be a whole number from 1 to 256, not 10000."),
        ("noise_rank=100000", "noise_rank must be a whole number from 1 to 512, not 100000."),
        ("seed=-1", "A seed is a whole number from 0 to 2147483647, not -1."),
        ("seed=2147483648", "A seed is a whole number from 0 to 2147483647, not 2147483648."),
    ],
)
def test_numbers_have_their_range(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(sentence) + "$"):
        apply([text], EnhanceConfig())
    if text.startswith("seed"):
        with pytest.raises(ValueError, match=re.escape(sentence)):
            apply([text], TrainConfig())
    widest = EnhanceConfig(iterations=10_000, chains=256, noise_rank=512, seed=2**31 - 1)
    assert apply(describe(widest).split(), EnhanceConfig()) == [widest]


@pytest.mark.parametrize("kind", [EnhanceConfig, TrainConfig, *ENGINES.values()])
def test_every_field_of_ours_can_be_set_from_its_own_text(kind: type) -> None:
    settings = kind()
    texts = describe(settings).split()
    assert len(texts) == len(fields(settings))
    assert apply(texts, settings) == [settings]
    for field in fields(settings)[:1]:  # some have none
        assert describe(settings, field.name).split() == texts[1:]


def test_settings_that_fit_together_fit_in_any_order() -> None:
    wanted = MALA(block=8, acceptance="joint")
    assert apply(["block=8", "acceptance=joint"], MALA()) == [wanted]
    assert apply(["acceptance=joint", "block=8"], MALA()) == [wanted]
    with pytest.raises(ValueError, match="accepted jointly"):
        apply(["block=8"], MALA())
