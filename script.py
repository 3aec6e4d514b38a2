"""Tell AI-generated video from real video: reads a dataset, writes submission.csv. See README.md.

Needs no arguments in the challenge: the dataset is at /tmp/data, the result goes to the working directory.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.run.pipeline import RunStats
    from model.run.scoring import BatchScorer

# Before any import that would look: there is no network, and nothing may try it.
for _name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ[_name] = "1"

REPOSITORY = Path(__file__).resolve().parent
_ending: list[int] = []  # signals that asked for the end
_put_off = False  # see `exit_put_off`
DEFAULT_DATASET = "/tmp/data"

log = logging.getLogger("script")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "videos",
        nargs="*",
        type=Path,
        metavar="VIDEO",
        help="files or folders: prints verdict and score of each",
    )
    parser.add_argument("--html", type=Path, metavar="PAGE", help="with VIDEO: write a page that shows the evidence")
    parser.add_argument(
        "--dataset",
        default=os.environ.get("DATASET_PATH", DEFAULT_DATASET),
        help=f"dataset folder (parquet, webdataset, video folder, save_to_disk), or any folder of videos;"
        f" default: $DATASET_PATH, else {DEFAULT_DATASET}",
    )
    parser.add_argument("--output", type=Path, default=Path("submission.csv"), help="result file; default: %(default)s")
    parser.add_argument("--weights", type=Path, default=REPOSITORY / "weights/video", help="folder with manifest.json")
    parser.add_argument("--device", help="torch device, e.g. cuda, cuda:1, cpu; default: CUDA if there is one")
    parser.add_argument(
        "--batch-size", type=int, default=0, metavar="N", help="views per batch; default: by free memory"
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "bfloat16", "float32"),
        default="auto",
        help="of the networks on a CPU; default: bfloat16 where it has units for it, which moves scores by up to 0.05",
    )
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="decode processes; default: one per core")
    parser.add_argument("--time", action="store_true", help="add the column `time`: seconds per example")
    parser.add_argument("--stats", type=Path, metavar="FILE", help="write counts, seconds by stage and reasons as JSON")
    parser.add_argument("--strict", action="store_true", help="exit with 3 if any row could not be scored")
    options = parser.parse_args(arguments)
    if options.html and not options.videos:
        parser.error("--html shows single videos: name them, e.g. script.py clip.mp4 --html clip.html")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 the result is not on disk, 2 cannot start, 3 --strict and a row fell back."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr, force=True)
    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGINT, terminate)
    with contextlib.ExitStack() as stack:
        try:  # `datasets` wants a cache folder even when streaming; the home directory may be read-only.
            scratch = tempfile.TemporaryDirectory(prefix="submission-", ignore_cleanup_errors=True)
            os.environ["HF_HOME"] = stack.enter_context(scratch)
        except OSError as error:  # the disk is full: most kinds of dataset need no such folder
            log.warning("no temporary folder: %s", error)
        from model import wheels

        wheels.ensure()  # before anything that needs them; does nothing where requirements.txt was installed
        return look_at_videos(options) if options.videos else score_dataset(options)


def terminate(number: int, _frame: object) -> None:
    """On SIGTERM and Ctrl-C: leave through the clean-up, which writes the last scores. A second Ctrl-C cuts it off."""
    signal.signal(number, signal.SIG_IGN if number == signal.SIGTERM else signal.default_int_handler)
    _ending.append(number)
    if not _put_off:
        sys.exit(128 + number)


@contextlib.contextmanager
def exit_put_off() -> Iterator[None]:
    """A signal's exit waits for the end of the block: raised while torch is imported it gets lost, or aborts."""
    global _put_off
    _put_off = True
    try:
        yield
    finally:
        _put_off = False
    if _ending:
        sys.exit(128 + _ending[0])


def look_at_videos(options: argparse.Namespace) -> int:
    """Print the verdict of each video named, and write the page if one is asked for. Returns the exit code."""
    with exit_put_off():
        from debug.inspect_video import inspect
        from model.run.scoring import choose_device
        from model.video.detector import load_detector
        from model.weights import WeightsError

    try:
        detector = load_detector(options.weights, choose_device(options.device), options.precision)
        verdicts = inspect(options.videos, detector, page=options.html)
    except (WeightsError, FileNotFoundError) as error:
        log.error("%s", error)
        return 2
    return 3 if options.strict and any(verdict.score is None for verdict in verdicts) else 0


def score_dataset(options: argparse.Namespace) -> int:
    """Read, score, write. Returns the exit code."""
    from model.config import LimitsConfig, PipelineConfig, SamplingConfig
    from model.rows.dataset import DatasetError, open_dataset
    from model.rows.submission import ResultFile
    from model.weights import WeightsError, load_manifest

    try:
        config = PipelineConfig(workers=options.workers, batch_views=options.batch_size)
        dataset = open_dataset(options.dataset)
        result = ResultFile(options.output, dataset.ids, with_time=options.time, write_seconds=config.write_seconds)
        written = result.write()  # complete from the first seconds; scores replace the placeholders as they come
        log.info("%s; %s", dataset.description, f"every id is in {options.output}" if written else "no file yet")
        manifest = load_manifest(options.weights)
    except (DatasetError, WeightsError, ValueError) as error:
        log.error("%s", error)
        return 2

    from model.run.pipeline import RunStats, run
    from model.video.prepare import VideoPreparation

    def build_scorer() -> BatchScorer:
        with exit_put_off():
            from model.run.scoring import BatchScorer, choose_device
            from model.video.detector import load_detector

            device = choose_device(options.device)
            load = partial(load_detector, precision=options.precision)
            return BatchScorer(lambda on: load(options.weights, on), device, batch_views=config.batch_views)

    stats = RunStats(rows=len(result))
    try:
        preparation = VideoPreparation(SamplingConfig(), LimitsConfig(), manifest.views)
        run(dataset, result, preparation, build_scorer, config=config, stats=stats)
    except WeightsError as error:
        log.error("%s", error)
        return 2
    finally:
        written = result.write()
        write_stats(stats, options.stats)
    return report(stats, options, written)


def write_stats(stats: RunStats, path: Path | None) -> None:
    """What was counted so far, if a file is asked for; without one that can be written the run is none the worse."""
    if path is not None:
        try:
            stats.write(path)
        except OSError as error:
            log.error("cannot write %s: %s", path, error.strerror)


def report(stats: RunStats, options: argparse.Namespace, written: bool) -> int:
    """Log the last lines: how many rows, how many fell back and why, where the file is."""
    for reason, rows in stats.fallbacks.most_common(20):
        log.warning("%d not scored: %s", rows, reason)
    log.info(
        "%d rows: %d scored (%d of them salvaged), %d fell back; %.1f s, %.2f clips/s",
        stats.rows, stats.scored, stats.salvaged, stats.unscored, stats.wall_seconds,
        stats.rows / max(stats.wall_seconds, 1e-9),
    )  # fmt: skip
    log.info("%s %s", "wrote" if written else "COULD NOT WRITE", options.output.absolute())
    if not written:
        return 1
    return 3 if options.strict and stats.unscored else 0


if __name__ == "__main__":
    sys.exit(main())
