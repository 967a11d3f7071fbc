"""Make the packaged example, `pyrodvae/examples/{clean,noisy}.flac`; needs espeak-ng 1.51.

Clean: one sentence by a synthetic voice. Noise: pink noise, as of a fan, and behind it other synthetic
voices saying other sentences, each through a diffuse room. Both are rounded to 16 bits before they are
summed, so that noisy - clean is the noise exactly. Nothing is drawn at random but from a fixed seed.
"""

import io
import subprocess
from pathlib import Path

import numpy as np
import soundfile
import soxr

RATE = 16_000
SNR_DB = 0.0
MURMUR_DB = -4.0
"""The other voices under the pink noise. Were they above it, the task would be to tell speech from speech."""
PEAK = 0.7
OUT = Path(__file__).resolve().parents[1] / "pyrodvae" / "examples"

SENTENCE = "Every morning, the old keeper walks to the harbour, and waits."
TALKERS = [
    ("en-us+m3", 165, 38, "I told them twice that the train would be late, but nobody listened."),
    ("en-gb+f2", 180, 55, "We could have tea in the garden if the rain ever stops this week."),
    ("en-gb-scotland+m7", 150, 30, "She sold the house and bought a small shop near the station."),
    ("en-029+f4", 170, 62, "There are seven boxes in the kitchen, and none of them is mine."),
    ("en-us+f5", 190, 48, "My brother plays the piano every evening, mostly the same three songs."),
    ("en-gb-x-rp+m1", 160, 42, "The museum opens at ten, so let us meet in front of the gate."),
]


def speak(text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    """Read a text aloud with espeak-ng, at our sampling rate."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    wave, rate = soundfile.read(io.BytesIO(subprocess.run(command, capture_output=True, check=True).stdout))
    return soxr.resample(wave, rate, RATE)


def pink(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw noise of unit power whose spectrum falls as 1/f above 50 Hz."""
    frequency = np.fft.rfftfreq(n, 1 / RATE)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) / np.sqrt(np.maximum(frequency, 50)), n)
    return noise / noise.std()


def room(rng: np.random.Generator, wave: np.ndarray) -> np.ndarray:
    """Smear a talker by a diffuse tail of 0.3 s, darker than the voice: someone across the room."""
    tail = pink(rng, int(0.3 * RATE)) * np.exp(-np.arange(int(0.3 * RATE)) / (0.05 * RATE))
    n = len(wave)
    return np.fft.irfft(np.fft.rfft(wave, 2 * n) * np.fft.rfft(tail, 2 * n))[:n]


def murmur(rng: np.random.Generator, n: int) -> np.ndarray:
    """Sum the talkers, each begun at a random moment, to unit power."""
    total = np.zeros(n)
    for voice, speed, pitch, text in TALKERS:
        wave = np.resize(speak(text, voice, speed, pitch), n)
        wave = room(rng, np.roll(wave, rng.integers(n)))
        total += wave / wave.std() * 10 ** (rng.uniform(-3, 3) / 20)
    return total / total.std()


def main() -> None:
    """Write both files."""
    rng = np.random.default_rng(2026)
    speech = speak(SENTENCE, "en-gb", 165, 45)
    audible = np.flatnonzero(np.abs(speech) > 1e-3)
    speech = speech[audible[0] : audible[-1]]
    speech = np.pad(speech, (int(0.35 * RATE), int(0.25 * RATE)))  # the noise alone, before and after
    noise = 10 ** (MURMUR_DB / 20) * murmur(rng, len(speech)) + pink(rng, len(speech))
    noise *= np.sqrt(np.sum(speech**2) / np.sum(noise**2)) * 10 ** (-SNR_DB / 20)
    scale = PEAK * 2**15 / np.abs(speech + noise).max()
    clean, noise = (np.round(scale * wave).astype(np.int16) for wave in (speech, noise))
    for name, wave in ("clean", clean), ("noisy", clean + noise):
        soundfile.write(OUT / f"{name}.flac", wave, RATE, subtype="PCM_16")


if __name__ == "__main__":
    main()
