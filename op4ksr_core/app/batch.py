"""Many pictures into a folder: what goes where, skipping, locking, and one bad file not stopping the rest."""

import contextlib
import errno
import glob
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from ..errors import Op4ksrError, OutputError, SettingError
from ..files import (
    Found,
    at_home,
    beside,
    check_folders,
    find_pictures,
    format_of,
    is_folder_name,
    is_same_file,
)
from ..formats import READABLE
from ..geometry import Box, Part, Scale, Target
from ..picture.before_after import save_before_after
from ..picture.convert import as_picture
from ..picture.header import MAX_MEGAPIXELS, read_header
from ..picture.read import Picture, read_picture
from ..picture.write import SaveOptions, check_writable, write_picture
from ..pipeline.composite import Framed
from ..pipeline.quality_check import Limits, run_checked
from ..pipeline.trial import middle_of, plan_trial, without_margin
from ..pipeline.upscaler import Upscaler
from ..progress import Progress
from ..settings import UpscaleSettings

log = logging.getLogger("op4ksr")


@dataclass(frozen=True)
class Job:
    """One picture to read, where its result goes, and where a before/after strip would."""

    source: Path
    output: Path
    strip: Path | None = None


@dataclass(frozen=True)
class Result:
    """What became of a job: status `done`, `skipped` or `failed`, sizes as WIDTHxHEIGHT.

    check: whether the model added a lattice or a mesh to the small picture, in a few words; passed: whether that is
    within the limits, None where it was not checked; rerun: whether this is the result of a second run.
    """

    source: str
    output: str
    status: str
    seconds: float = 0.0
    source_size: str = ""
    target_size: str = ""
    notes: tuple[str, ...] = ()
    error: str = ""
    check: str = ""
    passed: bool | None = None
    rerun: bool = False

    def as_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class BatchSettings:
    """What holds for every picture of a batch."""

    upscale: UpscaleSettings
    target: Target = Scale()
    save: SaveOptions = SaveOptions()
    overwrite: bool = False
    strip: bool = False
    strength_mask: str | None = None
    max_megapixels: float = MAX_MEGAPIXELS
    check: bool = True
    limits: Limits = Limits()
    rerun: bool = False
    """What does not pass the check is run again with less strength."""
    region: str | None = None
    """Only this part of each picture: `left,top,width,height` in its px, or MIDDLE."""


MIDDLE = "middle"


def check_part(region: str) -> str:
    """Returns the region if it is MIDDLE or `left,top,width,height`, else raises SettingError."""
    if region != MIDDLE:
        Part.parse(region)
    return region


def as_trials(jobs: Sequence[Job], region: str) -> list[Job]:
    """The jobs with outputs named after the region, beside the names of whole results and none of them."""
    taken = {str(job.output).casefold() for job in jobs}
    made = []
    for job in jobs:
        stem = f"{job.output.stem}_region_{region.replace(',', '_')}"
        output, number = job.output.with_name(stem + job.output.suffix), 2
        while str(output).casefold() in taken:
            output, number = job.output.with_name(f"{stem}_{number}{job.output.suffix}"), number + 1
        taken.add(str(output).casefold())
        made.append(_job(job.source, output, _strip_of(output, taken)))
    return made


def plan_jobs(inputs: Sequence[str], out: str, suffix: str = ".png", unread: list[Path] | None = None) -> list[Job]:
    """Files, folders (searched through) and glob patterns -> jobs, each with an output of its own.

    `out` is a file when it has a picture's suffix and there is one input file; else a folder that
    keeps the inputs' names and, below a given folder, their structure. Pictures of the folders in formats that are not
    read go into `unread`. Raises SettingError where nothing is found, OutputError where `out` names a file that cannot
    be written.
    """
    if not out.strip():
        raise SettingError("The output is empty: name a folder, or a file for a single picture, with -o.")
    out_path = at_home(out)
    found = find_pictures(inputs, out_path, unread)
    if not is_folder_name(out) or _is_mistyped(found, inputs, out):
        format_of(out_path)
    if out_path.suffix.lower() in READABLE and not (os.path.lexists(out_path) and out_path.is_dir()):
        format_of(out_path)
        if len(found) > 1:
            raise SettingError(f"{len(found)} pictures cannot go into one file {out_path}. Give a folder with -o.")
        return [_job(found[0].path, out_path, _strip_of(out_path, set()))]
    return _assign(found, out_path, suffix)


def _is_mistyped(found: Sequence[Found], inputs: Sequence[str], out: str) -> bool:
    """Whether one file goes to what looks like a file with a suffix that nobody knows, and is no folder yet."""
    one_file = len(inputs) == 1 and len(found) == 1 and found[0].path == at_home(inputs[0])
    suffix = at_home(out).suffix
    looks = suffix[1:].isalpha() and len(suffix) <= 5 and suffix.lower() not in READABLE
    return one_file and looks and not out.endswith(("/", os.sep)) and not at_home(out).is_dir()


def _assign(found: Sequence[Found], out: Path, suffix: str) -> list[Job]:
    """Of inputs that would share an output, one that has its suffix takes it, and the others add theirs to the name.

    So an input that comes later takes no other's output. Names that differ in case alone count as one: some file
    systems know no case.
    """
    sources = {os.path.abspath(one.path): one for one in found}  # noqa: PTH100, a link stays a link
    sharing: dict[str, list[Found]] = {}
    for one in sources.values():
        sharing.setdefault(str(one.place.with_suffix("")).casefold(), []).append(one)
    outputs: dict[int, Path] = {}
    taken: set[str] = set()

    def take(one: Found, name: str) -> bool:
        output = out / one.place.with_name(name)
        if str(output).casefold() in taken:
            return False
        taken.add(str(output).casefold())
        outputs[id(one)] = output
        return True

    def plain(one: Found) -> bool:
        group = sharing[str(one.place.with_suffix("")).casefold()]
        same = [other for other in group if other.place.suffix.lower() == suffix]
        return len(group) == 1 or (bool(same) and same[0] is one)

    for one in sources.values():
        if plain(one):
            take(one, one.place.with_suffix(suffix).name)
    for one in sources.values():
        number, tag = 1, one.place.suffix.lstrip(".")
        while id(one) not in outputs:
            ending = f"_{tag}{suffix}" if number == 1 else f"_{tag}{number}{suffix}"
            take(one, one.place.stem + ending)
            number += 1
    return [_job(one.path, outputs[id(one)], _strip_of(outputs[id(one)], taken)) for one in sources.values()]


def _strip_of(output: Path, taken: set[str]) -> Path:
    """Beside the output, under a name that no result has."""
    number, strip = 1, output.with_name(f"{output.stem}_strip.jpg")
    while str(strip).casefold() in taken:
        number += 1
        strip = output.with_name(f"{output.stem}_strip{number}.jpg")
    taken.add(str(strip).casefold())
    return strip


def _job(source: Path, output: Path, strip: Path) -> Job:
    if is_same_file(source, output):
        raise SettingError(f"The result of {source} would replace it. Choose another output with -o.")
    return Job(source, output, strip)


def run_jobs(
    upscaler: Upscaler,
    jobs: Sequence[Job],
    settings: BatchSettings,
    progress: Callable[[Job], Progress | None] = lambda job: None,
) -> Iterator[Result]:
    """Yields a Result per job, in order. A full disk ends the batch, any other error only its picture.

    With the logger at DEBUG, an error that nobody foresaw is raised.
    """
    check_folders([job.output for job in jobs])
    for number, job in enumerate(jobs):
        started = time.perf_counter()
        try:
            result = _run_locked(upscaler, job, settings, progress(job))
        except Op4ksrError as error:
            result = Result(str(job.source), str(job.output), "failed", error=str(error))
            if _is_disk_full(error):
                yield result
                for left in jobs[number + 1 :]:
                    yield Result(str(left.source), str(left.output), "failed", error="not started: the disk is full")
                return
        except Exception as error:
            if log.isEnabledFor(logging.DEBUG):
                raise
            text = f"unexpected {type(error).__name__}: {error} (--debug shows where)"
            result = Result(str(job.source), str(job.output), "failed", error=text)
        yield replace(result, seconds=round(time.perf_counter() - started, 2))


def _is_disk_full(error: Op4ksrError) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)


def is_finished(output: Path) -> bool:
    """Whether a whole result is there. An empty file is none; a folder in its place is refused."""
    try:
        if output.is_dir():
            raise OutputError(f"{output} is a folder; a picture should go there. Choose another output with -o.")
        return output.is_file() and output.stat().st_size > 0
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror or error}.") from error


def _run_locked(upscaler: Upscaler, job: Job, settings: BatchSettings, progress: Progress | None) -> Result:
    """Holds a lock beside the output, so that two runs into one folder share the work.

    A lock or a half-written file of a run that is gone is removed, also beside a finished output.
    """
    from filelock import FileLock, Timeout

    place = beside(job.output, ".lock")
    done = is_finished(job.output) and not settings.overwrite
    if done and not _lacks_strip(job, settings) and not os.path.lexists(place) and not _leftovers(job.output):
        return _skipped(job)
    lock = FileLock(place)
    try:
        with lock.acquire(timeout=0):
            for part in _leftovers(job.output):
                part.unlink(missing_ok=True)
            if not is_finished(job.output) or settings.overwrite:
                return _run(upscaler, job, settings, progress)
            if _lacks_strip(job, settings):
                _write_strip(job, read_picture(job.source), read_picture(job.output, math.inf))
                return Result(str(job.source), str(job.output), "done", notes=("the strip alone was missing",))
            return _skipped(job)
    except Timeout:
        return Result(str(job.source), str(job.output), "skipped", notes=("another run is working on it",))
    except OSError as error:
        raise OutputError(f"{place} cannot be made: {error.strerror or error}.") from error
    finally:
        if not lock.is_locked:
            _remove_lock(place)


def _skipped(job: Job) -> Result:
    return Result(str(job.source), str(job.output), "skipped", notes=("the output exists",))


def _lacks_strip(job: Job, settings: BatchSettings) -> bool:
    return settings.strip and job.strip is not None and not is_finished(job.strip)


def _leftovers(output: Path) -> list[Path]:
    """Half-written files; under the lock they belong to no run that goes on."""
    return list(output.parent.glob(f"{glob.escape(beside(output, '').name)}.*.part"))


def _remove_lock(path: Path) -> None:
    """Removes the lock file unless another run holds it, or it is no lock."""
    from filelock import FileLock, Timeout

    if not path.is_file():
        return
    with contextlib.suppress(Timeout, OSError), FileLock(path, timeout=0):
        path.unlink(missing_ok=True)


def _write_strip(job: Job, before: Picture, after: Picture) -> None:
    if job.strip is not None:
        save_before_after(job.strip, as_picture(before.rgb[0]), as_picture(after.rgb[0]))


def _run(upscaler: Upscaler, job: Job, settings: BatchSettings, progress: Progress | None) -> Result:
    source = read_header(job.source, settings.max_megapixels).size
    frame = settings.target.frame(source)
    trial = None
    if settings.region is not None:
        part = middle_of(frame) if settings.region == MIDDLE else Part.parse(settings.region)
        trial = plan_trial(frame, part, upscaler.host.multiple_px)
        frame = trial.frame
    plan = upscaler.plan(frame, [settings.upscale])
    picture = read_picture(job.source, settings.max_megapixels)
    region = read_mask(settings.strength_mask) if settings.strength_mask else None
    padded = trial is None and isinstance(settings.target, Box) and settings.target.fit == "pad"
    lost = check_writable(picture, frame.canvas.height, frame.canvas.width, format_of(job.output), padded)

    def enlarged(upscale: UpscaleSettings) -> Framed:
        made = upscaler.run(replace(plan, settings=(upscale,)), picture.rgb, progress, picture.alpha, region)
        return made if trial is None else without_margin(made, trial)

    def written(made: Framed) -> None:
        larger = replace(picture, rgb=made.rgb, alpha=made.alpha)
        if settings.strip and job.strip is not None:
            is_finished(job.strip)  # a folder in its place is found before anything is written
        write_picture(job.output, larger, settings.save)
        if settings.strip:
            _write_strip(job, picture if trial is None else replace(picture, rgb=made.lr), larger)

    limits = settings.limits if settings.check else None
    made, check = run_checked(enlarged, settings.upscale, limits, settings.rerun, written)
    sizes = str(source if trial is None else trial.part.size), str(made.frame.canvas)
    done = Result(str(job.source), str(job.output), "done", 0.0, *sizes, notes=picture.notes + lost + made.told)
    if check is None:
        return done
    return replace(done, check=check.words, passed=check.passed, rerun=check.rerun)


@lru_cache(maxsize=1)
def read_mask(path: str) -> Tensor:
    """A strength mask (1, 1, H, W) in [0, 1] from a picture: its brightness; read once a run. Raises ImageError."""
    return read_picture(path).rgb.mean(1, keepdim=True)
