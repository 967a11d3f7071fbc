"""Sound files in, sound files out: one or a folder of them, in bounded memory, each whole or not at all."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from pyrodvae.audio import (
    AudioError,
    AudioInfo,
    Waveform,
    check_duration,
    check_finite,
    check_sound,
    info,
    read_segments,
)
from pyrodvae.audio_writer import FORMATS, INTEGER_BITS, OverlapWriter, format_of
from pyrodvae.av_data import beside
from pyrodvae.data import audio_files
from pyrodvae.engines import Engine
from pyrodvae.enhance import SHARED_SECONDS, WINDOW_SECONDS, Enhanced, enhance
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.synthesis import resynthesize
from pyrodvae.video_for import Excerpt
from pyrodvae.weights import Run

Share = Callable[[float], None]
"""Called with the finished share of a job, between 0 and 1."""

Transform = Callable[..., Waveform]
"""``(waveform (C, N), rate, each) -> waveform (C, N)``: what is done to a segment; with ``video=``, a path or
an excerpt, where the job has one."""

SUBTYPES = {*INTEGER_BITS, "FLOAT", "DOUBLE"}
"""Sample formats that an output takes over from its input; others get their format's default."""


@dataclass(frozen=True)
class Job:
    """A file to read, and the file to write; and the video of the speaker's lips, if there is one."""

    source: Path
    target: Path
    video: Path | None = None

    @property
    def done(self) -> bool:
        """Whether the target is there, not older than the source, and as long as it."""
        if not (self.source.is_file() and self.target.is_file()):
            return False
        if self.target.stat().st_mtime < self.source.stat().st_mtime:
            return False
        try:
            a, b = info(self.source), info(self.target)
        except AudioError:
            return False
        same = (a.rate, a.channels) == (b.rate, b.channels)
        return same and abs(a.frames - b.frames) <= a.rate // 10  # encoders pad a little


def plan(inputs: Sequence[str | Path], out: str | Path) -> list[Job]:
    """Which file becomes which.

    One file goes to the file ``out``, or into it where it is a folder. Several inputs, or a folder, go
    into the folder ``out``: under their own names, and below a folder in its tree. A format that cannot be
    written becomes ``.wav``.

    Raises:
        AudioError: a folder holds no recording, two inputs would become one file, an output would
            replace an input, or has a format that cannot be written.
    """
    if not all(map(str, [*inputs, out])):
        raise AudioError("An empty name was given for an input or for the output.")
    folder = len(inputs) > 1 or Path(inputs[0]).is_dir() or Path(out).is_dir() or str(out).endswith(os.sep)
    jobs: list[Job] = []
    for one in map(Path, inputs):
        if one.is_dir():
            found = [p for p in audio_files(one) if not _inside(p, Path(out), one)]
            if not found:
                raise AudioError(f"There is no recording in {one}.")
            jobs += [Job(p, _writable(Path(out) / p.relative_to(one))) for p in found]
        else:
            jobs.append(Job(one, _writable(Path(out) / one.name) if folder else Path(out)))
    sources: dict[Path, Path] = {}
    for job in jobs:
        format_of(job.target)  # told before any work is done
        target = job.target.resolve()
        if target in sources:
            raise AudioError(f"{sources[target]} and {job.source} would both become {job.target}.")
        sources[target] = job.source
    for job in jobs:
        if job.source.resolve() in sources:
            raise AudioError(f"{job.source} would be overwritten: choose another output.")
    return jobs


def with_videos(jobs: Sequence[Job], inputs: Sequence[str | Path], video: Path) -> list[Job]:
    """The same jobs, each with its video: that file for one, or the one of its name and place in a folder.

    Raises:
        AudioError: a recording has none, or there is one for several.
    """
    found = []
    for job in jobs:
        if video.is_dir():
            roots = [root for root in map(Path, inputs) if root.is_dir() and job.source.is_relative_to(root)]
            name = job.source.relative_to(roots[0]) if roots else Path(job.source.name)
            film = beside(video / name)
        else:
            film = video if len(jobs) == 1 else None
        if film is None:
            raise AudioError(
                f"{job.source} has no video: for several recordings --video is a folder of equal names."
            )
        found.append(replace(job, video=film))
    return found


def _inside(path: Path, out: Path, source: Path) -> bool:
    """Whether a file below ``source`` was written by an earlier run, to a folder ``out`` below it."""
    below = source.resolve() in out.resolve().parents
    return below and path.resolve().is_relative_to(out.resolve())


def _writable(path: Path) -> Path:
    return path if path.suffix.lower() in FORMATS else path.with_suffix(".wav")


def transform_file(
    source: Path,
    target: Path,
    transform: Transform,
    each: Share = lambda share: None,
    *,
    video: Path | None = None,
    window: float = WINDOW_SECONDS,
    shared: float = SHARED_SECONDS,
) -> None:
    """Write a transformed copy of a recording, segment by segment; its folder is made where it is missing.

    The copy keeps rate and channels, and where its format can hold them, the samples' format. Longer
    recordings are cut into segments that are faded into each other; silent ones stay as they are.

    Args:
        source, target: files; the extension of the target gives its format.
        transform: what is done to each segment.
        each: called with the finished share.
        video: of the lips; each segment is given the part that belongs to it.
        window, shared: length of segments and of their overlap in seconds.

    Raises:
        AudioError: the source is no audio, too short, silent throughout or has samples that are not
            finite, or the target cannot be written; then the target is as it was before.
    """
    header = info(source)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AudioError(
            f"{target} cannot be written: its folder cannot be made ({error.strerror})."
        ) from error
    done, silent = 0, True
    with OverlapWriter(target, header.rate, shared, _subtype(header, target)) as out:
        out.open(header.channels)
        for segment in read_segments(source, window, shared):
            check_duration(segment, header.rate, source)
            check_finite(segment, source)
            start, length = done, segment.shape[-1]

            def tick(share: float, start: int = start, length: int = length) -> None:
                each(min(1.0, (start + share * length) / header.frames))

            if np.any(segment):
                silent = False
                lips = {} if video is None else {"video": _part(video, start, length, header)}
                segment = transform(segment, header.rate, tick, **lips)
            out.write(segment)
            done += length - round(shared * header.rate)
        if silent:
            check_sound(segment, source)
    each(1.0)


def _part(video: Path, start: int, length: int, header: AudioInfo) -> Path | Excerpt:
    """What belongs to a segment: nothing is cut off before the start or after the end of the recording."""
    if length >= header.frames:
        return video
    end = start + length
    return Excerpt(video, start / header.rate, math.inf if end >= header.frames else end / header.rate)


def _subtype(header: AudioInfo, target: Path) -> str | None:
    """The subtype of the source, if it is one of plain samples that the target's format can hold."""
    kind = FORMATS.get(target.suffix.lower(), "")
    if header.subtype in SUBTYPES and soundfile.check_format(kind, header.subtype):
        return header.subtype
    return None


def enhancing(
    run: Run,
    engine: str | Engine,
    config: EnhanceConfig,
    device: str = "cpu",
    log: Callable[[str], None] = lambda text: None,
    keep: Callable[[Enhanced], object] = lambda result: None,
) -> Transform:
    """Enhancement, as what is done to a segment; what EM had to mend is logged, and ``keep`` sees it all."""

    def transform(segment: Waveform, rate: int, each: Share, video: Path | Excerpt | None = None) -> Waveform:
        result = enhance(
            segment,
            sample_rate=rate,
            model=run,
            engine=engine,
            config=config,
            device=device,
            video=video,
            each=each,
        )
        for sentence in result.warnings:
            log(sentence)
        keep(result)
        return result.speech

    return transform


def resynthesizing(run: Run) -> Transform:
    """Analysis and resynthesis, as what is done to a segment."""
    return lambda segment, rate, each, video=None: resynthesize(segment, rate, run, video)


def transform_files(
    jobs: Sequence[Job],
    transform: Transform,
    *,
    force: bool = False,
    log: Callable[[str], None] = lambda text: None,
    done: Callable[[str, str], object] = lambda source, why: None,
) -> list[tuple[Path, str]]:
    """Do all jobs with a progress bar on stderr; those that fail come back with the reason.

    Args:
        jobs: from :func:`plan`; those whose output is not older than their input are skipped.
        transform: what is done to each segment.
        force: skip none.
        log: called with a line for each file that is skipped, or gets another format.
        done: called with each file that was not skipped, and why it failed, "" if it did not.
    """
    failed: list[tuple[Path, str]] = []
    layout = "{percentage:3.0f}%|{bar:20}| {elapsed}<{remaining} {desc}"
    with tqdm(total=len(jobs), bar_format=layout) as bar:
        for i, job in enumerate(jobs):
            bar.set_description_str(f"{job.source.name} ({i + 1} of {len(jobs)})", refresh=False)

            def advance(share: float, i: int = i) -> None:
                bar.update(i + share - bar.n)

            try:
                if job.done and not force:
                    log(f"skipped {job.source}: {job.target} is done already (--force does it again)")
                else:
                    if job.source.suffix.lower() not in FORMATS:
                        log(f"{job.source} becomes {job.target}: its own format can only be read")
                    transform_file(job.source, job.target, transform, advance, video=job.video)
                    done(str(job.source), "")
            except AudioError as error:
                failed.append((job.source, str(error)))
            except ValueError as error:
                failed.append((job.source, f"{job.source}: {error}"))
            except OSError as error:
                failed.append((job.source, f"{job.source}: {error.strerror or error}."))
            if failed and failed[-1][0] == job.source:
                done(str(job.source), failed[-1][1])
            advance(1.0)
    return failed
