"""A VAE-MM out of two runs that were trained apart."""

from __future__ import annotations

from pyrodvae.guide import Sees
from pyrodvae.models.av_switch import AVSwitch, AVSwitchGuide
from pyrodvae.models.av_vae import AVVAE
from pyrodvae.models.vae import VAE
from pyrodvae.models.vae_mm import VAEMM, VAEMMGuide
from pyrodvae.weights import Run, WeightsError, base_card


def switch(run: Run) -> Run:
    """An AV-VAE as the mixture of itself with and without its lips; see :class:`AVSwitch`.

    ::

        run = switch(load_run("runs/av-vae"))
        result = pyrodvae.enhance("noisy.wav", video="lips.mp4", model=run)
        result.responsibility  # how little the lips were trusted, frame by frame

    Args:
        run: of an AV-VAE with its paper's guide, trained with ``drop_share`` above zero.

    Raises:
        WeightsError: it is of another model or guide.
    """
    if type(run.model) is not AVVAE or run.card["guide"] != "paper":
        raise WeightsError(
            f"An AV-switch is made of a run of an AVVAE with the guide 'paper', not of a "
            f"{type(run.model).__name__} with '{run.card['guide']}'."
        )
    c = run.model.config
    sizes = {name: c[name] for name in ("dense", "mixed", "video", "reader", "embedding", "data")}
    model = AVSwitch(c["observed"], c["latent"], **sizes).to(run.model.z_0)
    guide = AVSwitchGuide(model, run.guide.sees, **run.guide.config).to(model.z_0)
    model.both.load_state_dict(run.model.state_dict())
    guide.visual.load_state_dict(run.guide.state_dict())
    model.requires_grad_(False)
    guide.requires_grad_(False)
    return Run(model, guide, run.stft, base_card("av-switch", model, "paper", guide, run.stft))


def mix(audio: Run, visual: Run) -> Run:
    """The mixture of an A-VAE and an AV-VAE, with copies of their weights; see :class:`VAEMM`.

    ::

        run = mix(load_run("runs/vae"), load_run("runs/av-vae"))
        result = pyrodvae.enhance("noisy.wav", video="lips.mp4", model=run)
        save_run("runs/vae-mm", run.model, run.guide, run.card)

    Args:
        audio: a run of a VAE with its paper's guide. visual: of an AV-VAE with its.

    Raises:
        WeightsError: they are of other models or guides, of another front end, or do not fit together.
    """
    if type(audio.model) is not VAE or type(visual.model) is not AVVAE:
        kinds = f"{type(audio.model).__name__} and {type(visual.model).__name__}"
        raise WeightsError(f"A VAE-MM is made of a run of a VAE and one of an AVVAE, not of {kinds}.")
    for run in (audio, visual):
        if run.card["guide"] != "paper":
            raise WeightsError(
                f"The run of the {type(run.model).__name__} has the guide '{run.card['guide']}'; a VAE-MM is "
                "made of runs with the guide 'paper'."
            )
    if audio.stft != visual.stft:
        raise WeightsError(f"The two runs hear by different front ends, {audio.stft} and {visual.stft}.")
    try:
        model = VAEMM.of(audio.model, visual.model)
    except ValueError as error:
        raise WeightsError(str(error)) from error
    sees = Sees(video=True)
    guide = VAEMMGuide(model, sees, audio=audio.guide.config, visual=visual.guide.config).to(model.z_0)
    guide.audio.load_state_dict(audio.guide.state_dict())
    guide.visual.load_state_dict(visual.guide.state_dict())
    model.requires_grad_(False)
    guide.requires_grad_(False)
    return Run(model, guide, audio.stft, base_card("vae-mm", model, "paper", guide, audio.stft))
