"""Published weights give published numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyrodvae.objective import density, latents, traces
from pyrodvae.published import import_weights, translate
from pyrodvae.published.tensors import Tensors
from pyrodvae.synthesis import Means
from pyrodvae.weights import WeightsError, make_pair

TINY = ["vae", "dkf", "dkfbi", "rvae", "rvaebi", "storn", "vrnn", "vrnnid", "srnn", "srnn_ss", "dsae"]
FULL = {
    "se_wsj_vae": "wsj_vae",
    "se_wsj_dkf": "wsj_dkf",
    "se_wsj_rvae": "wsj_rvae",
    "se_wsj_srnn": "wsj_srnn",
    "av_A-VAE": "av_A-VAE",
    "av_A-DKF": "av_A-DKF",
    "av_AV-VAE": "av_AV-VAE",
}
NAMES = [*(f"tiny_{n}" for n in TINY), *FULL]


class Given:
    """Golden numbers, the weights they belong to, and our pair with these weights."""

    def __init__(self, folder: Path, name: str, swapped: bool = False) -> None:
        self.numbers = np.load(folder / f"{name}.npz")
        self.about = json.loads((folder / f"{name}.json").read_text())
        if name in FULL:
            file = next((folder / "checkpoints" / FULL[name]).glob("*.pt"))
            self.theirs = torch.load(file, map_location="cpu", weights_only=True)
            inputs = np.load(folder / "inputs.npz")
            power = inputs["x513"]
        else:
            self.theirs = {k: torch.from_numpy(v) for k, v in np.load(folder / f"{name}.weights.npz").items()}
            power = self.numbers["x"]
        self.theirs = {k: v.clone().requires_grad_() for k, v in self.theirs.items()}
        self.power = torch.from_numpy(power).transpose(0, 1)
        # The square root of the power, whose square is the power to within the last digit.
        self.x = torch.complex(self.power.sqrt(), torch.zeros(()).expand_as(self.power))
        T, B, D = self.numbers["mean/z_mean"].shape
        inputs = np.load(folder / "inputs.npz")
        self.noise = torch.from_numpy(inputs["eps"][:T, :B, :D]).transpose(0, 1)
        settings = self.about["config"]["Network"]
        if self.about["cls"] == "SRNN_ss":
            settings |= {"tag": "SRNN-ss"}  # as the configurations of full size have it
        key, (model_config, guide_config), self.ours = translate(self.theirs, settings)
        if swapped:
            widest = max((k for k in self.ours if k.endswith("bias")), key=lambda k: self.ours[k].numel())
            self.ours = self.ours | {widest: self.ours[widest].flip(0)}
        self.model, self.guide = make_pair(key, model_config, "paper", guide_config)
        for part, module in (("model", self.model), ("guide", self.guide)):
            module.load_state_dict(
                {k.removeprefix(f"{part}."): v.detach() for k, v in self.ours.items() if k.startswith(part)}
            )

        self.v = torch.from_numpy(self.numbers["v"])[None] if self.model.video else None
        self.noise_w = torch.from_numpy(inputs["eps_v"][:B, : self.model.segment])

    def run(self, path: str, monkeypatch):
        """Traces of the guide and the model along the golden path."""
        if path == "mean":
            with Means():
                return traces(self.model, self.guide, self.x, None, self.v)
        of_w = [self.noise_w] if self.model.segment else []
        of_z = self.noise.split(1 if self.guide.sees.z_past != "none" else self.noise.shape[1], 1)
        draws = iter([*of_w, *of_z])

        def draw(shape, **_):
            noise = next(draws)
            assert noise.shape == shape
            return noise

        with monkeypatch.context() as patch:
            patch.setattr("pyrodvae.distributions.torch.randn", draw)
            return traces(self.model, self.guide, self.x, None, self.v)

    def wanted(self, name: str) -> Tensor:
        value = torch.from_numpy(np.asarray(self.numbers[name]))
        return value.transpose(0, 1) if value.dim() == 3 else value


def close(a: Tensor, b: Tensor, tolerance: float = 5e-6) -> None:
    """Equal relative to the largest entry."""
    assert (a - b).abs().max() <= tolerance * b.abs().max()


def itakura_saito(given: Given, p) -> Tensor:
    """As the published loss has it: its floor is felt where the variance is far below that of speech."""
    ratio = given.power / (p.nodes["x"]["fn"].base_dist.log_variance.exp() + 1e-10)
    return (ratio - ratio.log() - 1).sum()


def compare(given: Given, path: str, monkeypatch) -> None:
    q, p = given.run(path, monkeypatch)
    z = q.nodes["z"]["value"]
    of_q, of_p = q.nodes["z"]["fn"].along(z), p.nodes["z"]["fn"].along(z)
    if path == "eps":
        close(z, given.wanted("eps/z"))
    for letters, d in (("", of_q), ("_p", of_p)):
        close(d.mean.expand(z.shape), given.wanted(f"{path}/z_mean{letters}"))
        theirs = given.wanted(f"{path}/z_logvar{letters}")
        assert (d.variance.log().expand(z.shape) - theirs).abs().max() <= 5e-6 * theirs.abs().max().clamp(
            min=1
        )
    y = p.nodes["x"]["fn"].base_dist.log_variance
    close(y, given.wanted(f"{path}/x_logvar"))
    close(itakura_saito(given, p), given.wanted(f"{path}/recon_isd_sum"))
    kl = kl_divergence(of_q, of_p).sum()
    missing = 0.5 * z.numel()  # the published formula leaves out one constant per dimension
    theirs = given.wanted(f"{path}/kl_sum")
    assert abs(kl + missing - theirs) <= 5e-6 * abs(theirs)
    if given.model.segment:
        compare_w(given, path, q.nodes["w"], p.nodes["w"])


def compare_w(given: Given, path: str, q, p) -> None:
    close(q["value"], given.wanted(f"{path}/v"))
    close(q["fn"].mean, given.wanted(f"{path}/v_mean"))
    close(q["fn"].variance.log(), given.wanted(f"{path}/v_logvar"))
    kl = kl_divergence(q["fn"], p["fn"]).sum()
    theirs = given.wanted(f"{path}/kl_v_sum")
    assert abs(kl + 0.5 * q["value"].numel() - theirs) <= 5e-6 * abs(theirs)


@pytest.mark.parametrize("path", ["eps", "mean"])
@pytest.mark.parametrize("name", NAMES)
def test_published_weights_give_published_numbers(name: str, path: str, golden_dir, monkeypatch) -> None:
    with torch.no_grad():
        compare(Given(golden_dir, name), path, monkeypatch)


@pytest.mark.parametrize("name", NAMES)
def test_one_swapped_weight_is_noticed(name: str, golden_dir, monkeypatch) -> None:
    with torch.no_grad(), pytest.raises(AssertionError):
        compare(Given(golden_dir, name, swapped=True), "mean", monkeypatch)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_the_published_loss(name: str, golden_dir, monkeypatch) -> None:
    """Through our programs into the published tensors: the translation is linear, so its transpose is
    the backward pass."""
    given = Given(golden_dir, name)
    q, p = given.run("eps", monkeypatch)
    frames = given.x.shape[0] * given.x.shape[1]
    kl = sum(kl_divergence(density(q, n), density(p, n)).sum() for n in latents(q))
    ((kl + itakura_saito(given, p)) / frames).backward()
    total = 0
    for part, module in (("model", given.model), ("guide", given.guide)):
        for ours, parameter in module.named_parameters():
            if ours.endswith("unseen"):  # what stands for a missing picture, and none is missing
                assert not parameter.grad.any()
                continue
            total = total + (given.ours[f"{part}.{ours}"] * parameter.grad).sum()
    total.backward()
    for theirs, value in given.theirs.items():
        norm = float(given.numbers[f"gradnorm/{theirs}"])
        assert abs(float(value.grad.norm()) - norm) <= 1e-4 * norm, theirs


def test_every_parameter_of_ours_is_given(golden_dir) -> None:
    given = Given(golden_dir, "tiny_rvaebi")
    names = {f"{p}.{k}" for p, m in (("model", given.model), ("guide", given.guide)) for k in m.state_dict()}
    assert names == set(given.ours)


def test_three_layers_that_read_the_sequence_turned_round() -> None:
    """An LSTM on time-flipped x, its output flipped back, is ours on x, but for the order of the outputs."""
    theirs, ours = (nn.LSTM(3, 4, 3, bidirectional=True, batch_first=True).double() for _ in range(2))
    x = torch.randn(2, 7, 3, dtype=torch.double)
    for turned in (True, False):
        t = Tensors({f"rnn_g_x.{k}": v.detach() for k, v in theirs.state_dict().items()})
        assert t.rnn("rnn_g_x", "rnn", turned) == (4, 3, True)
        assert not t.left
        ours.load_state_dict({k.removeprefix("rnn."): v for k, v in t.ours.items()})
        forward, backward = ours(x)[0].chunk(2, -1)
        wanted = theirs(x.flip(1))[0].flip(1)
        assert torch.allclose(torch.cat([backward, forward], -1), wanted, rtol=1e-12, atol=1e-12) == turned


F, D, H = 5, 2, 4


def unstacked(**layers: tuple[int, int]) -> dict[str, Tensor]:
    """Weights without any dense stack: of dense layers and, by names that begin with rnn, of LSTMs."""
    modules = nn.ModuleDict()
    for name, (inputs, outputs) in layers.items():
        modules[name] = (nn.LSTM if name.startswith("rnn") else nn.Linear)(inputs, outputs)
    return modules.state_dict()


def q(inputs: int) -> dict[str, tuple[int, int]]:
    return {"inf_mean": (inputs, D), "inf_logvar": (inputs, D)}


def p(inputs: int) -> dict[str, tuple[int, int]]:
    return {"prior_mean": (inputs, D), "prior_logvar": (inputs, D)}


@pytest.mark.parametrize(
    ("key", "theirs"),
    [
        ("vae", unstacked(**q(F), gen_out=(D, F))),
        ("storn", unstacked(rnn_g=(F, H), **q(H), rnn_h=(D + F, H), gen_logvar=(H, F))),
        (
            "srnn",
            unstacked(rnn_h=(F, H), rnn_g=(H + F, H), **q(H + D), **p(H + D), gen_out=(H + D, F)),
        ),
        ("vrnn", unstacked(rnn=(F + D, H), **q(F + H), **p(H), gen_out=(D + H, F))),
        ("rvae-causal", unstacked(rnn_g_x=(F, H), rnn_g_z=(D, H), **q(2 * H), rnn_h=(D, H), gen_out=(H, F))),
    ],
)
def test_models_are_recognised_without_their_dense_stacks(key: str, theirs: dict[str, Tensor]) -> None:
    found, (model_config, guide_config), tensors = translate(theirs, {"tag": "SRNN"})
    assert found == key
    for part, module in zip(
        ("model", "guide"), make_pair(key, model_config, "paper", guide_config), strict=True
    ):
        own = {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(part)}
        module.load_state_dict(own)
        x = torch.randn(2, 3, F, dtype=torch.cfloat)
        module(x)


@pytest.mark.parametrize(
    ("name", "setting", "sentence"),
    [
        ("tiny_dkf", {"inference": "normal"}, "says inference = normal, and only inference = gated is known"),
        ("tiny_vae", {"activation": "relu"}, "says activation = relu, and only activation = tanh is known"),
    ],
)
def test_settings_that_change_the_formulas_are_refused(name, setting, sentence: str, golden_dir) -> None:
    given = Given(golden_dir, name)
    with pytest.raises(WeightsError, match=sentence):
        translate(given.theirs, given.about["config"]["Network"] | setting)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.pop("rnn_h.weight_hh_l1"), "hold 3 unknown tensors"),
        (lambda d: d.update(extra=torch.zeros(1)), "1 unknown tensors: extra"),
        (lambda d: d.pop("inf_mean.weight"), "an encoder's"),
        (lambda d: d.clear(), "no format that is known"),
    ],
)
def test_incomplete_or_unknown_weights_are_refused(change, sentence: str, golden_dir, tmp_path: Path) -> None:
    theirs = {k: v.detach().clone() for k, v in Given(golden_dir, "tiny_rvae").theirs.items()}
    change(theirs)
    torch.save(theirs, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=sentence):
        import_weights(tmp_path / "w.pt")


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, sentence in (
        ("no.pt", "no file"),
        ("text.pt", "damaged, or no file"),
        ("list.pt", "not a state dict"),
    ):
        with pytest.raises(WeightsError, match=sentence):
            import_weights(tmp_path / name)
