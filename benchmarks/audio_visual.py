"""What a mixture of audio and video costs: processor time of EM per iteration beside the audio-only model.

python benchmarks/audio_visual.py [--seconds 5] [--threads 1] [--rounds 5]

The A-VAE is the mixture's own part, on the same frames; what is compared takes turns, and the least time
counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from pyrodvae.av_mixture import OwnLatents
from pyrodvae.em import em
from pyrodvae.engines import MH, Engine, Factorised, Langevin
from pyrodvae.mixture_vem import factorised_em
from pyrodvae.models import MINVAE, VAEMM
from pyrodvae.noise import NMFNoise
from pyrodvae.noisy import NoisySpeech
from pyrodvae.noisy_mixture import NoisyMixture

ITERATIONS = 10
LANGEVIN = Langevin()


def main() -> None:
    """Print seconds per iteration, and the ratio to the A-VAE."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=5.0)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--chains", type=int, default=1)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    frames = round(chosen.seconds * 62.5)
    x = torch.randn(1, frames, 513, dtype=torch.cfloat)
    v = torch.rand(1, frames, 1024)
    mixed, one = VAEMM(), MINVAE()

    def noise() -> NMFNoise:
        return NMFNoise.from_quiet_frames(x, 8, torch.Generator().manual_seed(0))

    def run_em(model: NoisySpeech, latent: int, engine: Engine = LANGEVIN) -> None:
        z = torch.randn(chosen.chains, 1, frames, latent)
        em(model, None, x, engine, z, iterations=ITERATIONS)

    def mixture(model: VAEMM | MINVAE, own: bool) -> None:
        seen = OwnLatents(model) if own else model
        run_em(NoisyMixture(seen, noise(), x=x, v=v), seen.latent)

    def factorised() -> None:
        z = torch.randn(chosen.chains, 1, frames, mixed.latent)
        factorised_em(mixed, noise(), None, x, v, z, Factorised(), iterations=ITERATIONS)

    runs: dict[str, Callable[[], None]] = {
        "vae": lambda: run_em(NoisySpeech(mixed.audio, noise()), mixed.latent),
        "av-vae": lambda: run_em(NoisySpeech(mixed.visual, noise(), v=v), mixed.latent),
        "vae-mm": lambda: mixture(mixed, True),
        "vae-mm, one latent": lambda: mixture(mixed, False),
        "min-vae": lambda: mixture(one, True),
        "min-vae, one latent": lambda: mixture(one, False),
        "vae, mh": lambda: run_em(NoisySpeech(mixed.audio, noise()), mixed.latent, MH()),
        "vae-mm, factorised": factorised,
    }
    least = dict.fromkeys(runs, float("inf"))
    for _ in range(chosen.rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            least[name] = min(least[name], (time.process_time() - start) / ITERATIONS)
    for name, seconds in least.items():
        like = "vae, mh" if name.endswith(("mh", "factorised")) else "vae"
        print(f"{name:<22}{1000 * seconds:8.1f} ms per iteration   {seconds / least[like]:5.2f} × {like}")


if __name__ == "__main__":
    main()
