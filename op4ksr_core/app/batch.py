"""Many pictures into a folder: what goes where, skipping, locking, and one bad file not stopping the rest."""

import errno
import glob
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from ..errors import Op4ksrError, SettingError
from ..files import READABLE, Found, check_folders, find_pictures, format_of
from ..geometry import Size, Sizing
from ..picture.before_after import save_before_after
from ..picture.convert import as_picture
from ..picture.read import read_picture
from ..picture.write import SaveOptions, check_writable, write_picture
from ..pipeline.framed import restore_framed
from ..pipeline.upscaler import Upscaler
from ..progress import Progress
from ..settings import UpscaleSettings

log = logging.getLogger("op4ksr")


@dataclass(frozen=True)
class Job:
    """One picture to read and where its result goes."""

    source: Path
    output: Path


@dataclass(frozen=True)
class Result:
    """What became of a job: status `done`, `skipped` or `failed`, sizes as WIDTHxHEIGHT."""

    source: str
    output: str
    status: str
    seconds: float = 0.0
    source_size: str = ""
    target_size: str = ""
    notes: tuple[str, ...] = ()
    error: str = ""

    def as_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class BatchSettings:
    """What holds for every picture of a batch."""

    upscale: UpscaleSettings
    sizing: Sizing = Sizing()
    save: SaveOptions = SaveOptions()
    overwrite: bool = False
    strip: bool = False
    strength_mask: str | None = None


def plan_jobs(inputs: Sequence[str], out: str, suffix: str = ".png") -> list[Job]:
    """Files, folders (searched through) and glob patterns -> jobs, each with an output of its own.

    `out` is a file when it has a picture's suffix and there is one input file; else a folder that
    keeps the inputs' names and, below a given folder, their structure. Two inputs that would share
    an output keep their old suffix in the name. Raises SettingError where nothing is found.
    """
    out_path = Path(out).expanduser()
    found = find_pictures(inputs, outside=out_path)
    if out_path.suffix.lower() in READABLE and not out_path.is_dir():
        format_of(out_path)
        if len(found) > 1:
            raise SettingError(f"{len(found)} pictures cannot go into one file {out_path}. Give a folder with -o.")
        return [_job(found[0].path, out_path)]
    return _assign(found, out_path, suffix)


def _assign(found: Sequence[Found], out: Path, suffix: str) -> list[Job]:
    jobs: dict[Path, Job] = {}
    sources = set()
    for one in found:
        source, place = one.path, one.place
        if source.resolve() in sources:
            continue
        sources.add(source.resolve())
        output, number = out / place.with_suffix(suffix), 1
        while output in jobs:
            number += 1
            tag = place.suffix.lstrip(".") + ("" if number == 2 else str(number))
            output = out / place.with_name(f"{place.stem}_{tag}{suffix}")
        jobs[output] = _job(source, output)
    return list(jobs.values())


def _job(source: Path, output: Path) -> Job:
    if output.exists() and output.resolve() == source.resolve():
        raise SettingError(f"The result of {source} would replace it. Choose another output with -o.")
    return Job(source, output)


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


def _run_locked(upscaler: Upscaler, job: Job, settings: BatchSettings, progress: Progress | None) -> Result:
    """Holds a lock beside the output, so that two runs into one folder share the work."""
    from filelock import FileLock, Timeout

    if job.output.exists() and not settings.overwrite:
        return Result(str(job.source), str(job.output), "skipped", notes=("the output exists",))
    lock = FileLock(job.output.with_name(f".{job.output.name}.lock"))
    try:
        with lock.acquire(timeout=0):
            if job.output.exists() and not settings.overwrite:
                return Result(str(job.source), str(job.output), "skipped", notes=("the output exists",))
            _remove_leftovers(job.output)
            result = _run(upscaler, job, settings, progress)
    except Timeout:
        return Result(str(job.source), str(job.output), "skipped", notes=("another run is working on it",))
    finally:
        if not lock.is_locked:
            _remove_lock(Path(lock.lock_file))
    return result


def _remove_leftovers(output: Path) -> None:
    """Half-written files of a killed run; under the lock they belong to no other."""
    for part in output.parent.glob(f".{glob.escape(output.name)}.*.part"):
        part.unlink(missing_ok=True)


def _remove_lock(path: Path) -> None:
    """Removes the lock file unless another run holds it."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(path, timeout=0):
            path.unlink(missing_ok=True)
    except Timeout:
        pass  # the other run removes it


def _run(upscaler: Upscaler, job: Job, settings: BatchSettings, progress: Progress | None) -> Result:
    picture = read_picture(job.source)
    source = Size(*picture.rgb.shape[-2:])
    canvas = settings.sizing.frame_of(source).canvas
    region = read_mask(settings.strength_mask) if settings.strength_mask else None
    padded = settings.sizing.exact is not None and settings.sizing.fit == "pad"
    lost = check_writable(picture, canvas.height, canvas.width, format_of(job.output), padded)

    def restored(lr: Tensor, target: Size) -> Tensor:
        return upscaler(lr, settings=settings.upscale, progress=progress, target=target)

    made = restore_framed(picture.rgb, settings.sizing, restored, picture.alpha, region)
    larger = replace(picture, rgb=made.rgb, alpha=made.alpha)
    write_picture(job.output, larger, settings.save)
    target = made.frame.canvas
    if settings.strip:
        save_before_after(
            job.output.with_name(f"{job.output.stem}_strip.jpg"), as_picture(picture.rgb[0]), as_picture(larger.rgb[0])
        )
    return Result(str(job.source), str(job.output), "done", 0.0, str(source), str(target), notes=picture.notes + lost)


def read_mask(path: str) -> Tensor:
    """A strength mask (1, 1, H, W) in [0, 1] from a picture: its brightness. Raises ImageError."""
    return read_picture(path).rgb.mean(1, keepdim=True)
