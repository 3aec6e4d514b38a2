"""Tell AI-generated video from real video, and machine speech from human speech. See README.md.

Reads a dataset and writes submission.csv, or prints what it thinks of single files.

Needs no arguments in the challenge: the dataset is at /tmp/data, the result goes to the working directory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.config import PipelineConfig
    from model.modality import Modality
    from model.rows.sources import ClipDataset
    from model.rows.submission import ResultFile
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


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="video or sound files, or folders: prints verdict and score of each"
    )
    single = parser.add_argument_group("with FILE")
    single.add_argument("--html", type=Path, metavar="PAGE", help="write a page that shows the evidence (videos)")
    single.add_argument("--json", action="store_true", help="print a JSON object a file instead of a line")
    rows = parser.add_argument_group("without FILE: a dataset, or a folder of one's own, into a result file")
    rows.add_argument(
        "--dataset",
        help="dataset folder (parquet, webdataset, folder with metadata, save_to_disk), or any folder of files;"
        f" default: $DATASET_PATH, else {DEFAULT_DATASET}",
    )
    rows.add_argument(
        "--output", type=Path, default=Path("submission.csv"), help="result file, .csv or .jsonl; default: %(default)s"
    )
    rows.add_argument(
        "--columns",
        choices=("challenge", "detailed"),
        help="id,pred,score, or reason, duration and more beside them; default: detailed for a plain folder that"
        " --dataset names, else challenge",
    )
    earlier = rows.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="go on with the result file that is there")
    earlier.add_argument("--overwrite", action="store_true", help="replace a result file that holds scores")
    rows.add_argument("--workers", type=int, default=0, metavar="N", help="decode processes; default: one per core")
    rows.add_argument("--batch-size", type=int, default=0, metavar="N", help="views per batch; default: by free memory")
    rows.add_argument("--time", action="store_true", help="add the column `time`: seconds per example")
    rows.add_argument("--stats", type=Path, metavar="FILE", help="write counts, seconds by stage and reasons as JSON")
    parser.add_argument("--modality", choices=("video", "audio"), help="default: told by the columns, or the names")
    parser.add_argument("--weights", type=Path, help="folder with manifest.json; default: weights/MODALITY")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default: CUDA if there is one")
    parser.add_argument(
        "--precision",
        choices=("auto", "bfloat16", "float32"),
        default="auto",
        help="of the networks on a CPU; default: bfloat16 where it has units for it, which moves scores by up to 0.05",
    )
    parser.add_argument(
        "--prior",
        type=float,
        default=0.5,
        metavar="P",
        help="share of generated files, for probabilities; default: 1/2",
    )
    parser.add_argument(
        "--sound",
        action=argparse.BooleanOptionalAction,
        help="a video's sound track gets its own verdict, taken for speech; default: for FILE, without --modality",
    )
    parser.add_argument(
        "--segments",
        type=float,
        metavar="SECONDS",
        help="score windows of so many seconds over the whole length: which stretches are generated",
    )
    parser.add_argument("--strict", action="store_true", help="exit with 3 if any file could not be scored")
    options = parser.parse_args(arguments)
    options.challenge = not arguments  # as the evaluation calls: nothing may keep it from writing its file
    if (options.html or options.json) and not options.files:
        parser.error("--html and --json are for single files: name them, e.g. script.py clip.mp4 --html clip.html")
    if options.html and options.json:
        parser.error("give --html or --json, not both")
    if not 0 < options.prior < 1:
        parser.error(f"--prior is {options.prior:g}; it must be between 0 and 1, as the share of generated files is")
    if options.segments is not None and not 1 <= options.segments <= 600:
        parser.error(f"--segments is {options.segments:g}; a window has 1 to 600 seconds")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 the result is not on disk, 2 cannot start, 3 --strict and a row fell back."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
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
        from model.rows.sources import DatasetError
        from model.rows.submission import ResultError
        from model.run.inputs import InputError, OutputError
        from model.run.parts import DeviceError
        from model.weights import WeightsError

        try:
            return look_at_files(options) if options.files else score_dataset(options)
        except OutputError as error:
            log.error("%s", error)
            return 1
        except (DatasetError, DeviceError, InputError, ResultError, WeightsError) as error:
            log.error("%s", error)
            return 2


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


def look_at_files(options: argparse.Namespace) -> int:
    """Print the verdict of each file named, and write the page if one is asked for. Returns the exit code."""
    from model.config import SegmentConfig
    from model.modality import MODALITIES, VIDEO
    from model.run.inputs import InputError, check_output, describe, find_files
    from model.run.parts import check_device, default_weights, modality_of_weights
    from model.run.words import segment_lines, sound_line, verdict_json, verdict_line

    named = options.modality or (options.weights and modality_of_weights(options.weights))
    modality = MODALITIES[named] if named else VIDEO if options.html else None
    found = find_files(options.files, modality)
    if options.html:
        if find_spec("debug") is None:  # in the container
            raise InputError("a page needs the repository's folder debug, which is not here: use a whole copy of it")
        from debug.inspect_files import inspect, require_matplotlib

        require_matplotlib()
        check_output(options.html)
    with exit_put_off():
        check_device(options.device)
        from model.run.files import FileDetector
        from model.run.scoring import choose_device
    if found.left_out:
        log.info("left out of the folders named: %s", describe(found.left_out))
    if options.html:
        from model.run.parts import load_detector

        shown = modality or VIDEO
        weights = options.weights or default_weights(shown)
        detector = load_detector(shown, weights, choose_device(options.device), options.precision)
        segments = SegmentConfig(options.segments) if options.segments else None
        sound = named is None if options.sound is None else options.sound
        verdicts = inspect(found.files, detector, page=options.html, segments=segments, sound=sound)
        return 3 if options.strict and any(verdict.score is None for verdict in verdicts) else 0
    unscored = 0
    name = modality.name if modality else None
    with FileDetector(
        name, weights=options.weights, device=options.device, precision=options.precision, segments=options.segments,
        sound=options.sound if options.sound is not None else name is None,
    ) as files:  # fmt: skip
        for file in found.files:
            verdict, kind = files.score(file), files.modality_of(file)
            unscored += verdict.score is None
            if options.json:
                print(json.dumps(verdict_json(str(file), verdict, kind, prior=options.prior)), flush=True)
            else:
                lines = [verdict_line(str(file), verdict, kind, prior=options.prior), *segment_lines(verdict, kind)]
                lines += [sound_line(verdict, verdict.sound)] if verdict.sound else []
                print("\n".join(lines), flush=True)
    return 3 if options.strict and unscored else 0


def score_dataset(options: argparse.Namespace) -> int:
    """Read, score, write. Returns the exit code."""
    from model.config import PipelineConfig
    from model.modality import AUDIO, MODALITIES
    from model.rows.dataset import open_dataset
    from model.run.inputs import InputError, describe

    if not options.challenge:
        check_before(options)
    try:
        config = PipelineConfig(workers=options.workers, batch_views=options.batch_size)
    except ValueError as error:
        raise InputError(str(error)) from error
    path = options.dataset or os.environ.get("DATASET_PATH") or DEFAULT_DATASET
    dataset = open_dataset(path, MODALITIES[options.modality] if options.modality else None)
    result, done = open_result(dataset, options, write_seconds=config.write_seconds)
    written = result.write()  # complete from the first seconds; scores replace the placeholders as they come
    log.info("%s; %s", dataset.description, f"every id is in {options.output}" if written else "no file yet")
    log.info("scored as %s", dataset.modality.name)
    if done:
        log.info("%d of them have a score already", len(done))
    if dataset.left_out:
        log.info("left out: %s", describe(dataset.left_out))
    from model.run.pipeline import RunStats

    waiting = dataset.without(done)
    stats = RunStats(rows=len(waiting.ids))
    try:
        score_rows(waiting, dataset.modality, result, options, config, stats)
        if options.sound:
            heard = {clip_id for clip_id, row in result.rows.items() if row.sound and row.sound.score is not None}
            tracks = dataset.without(heard)
            log.info("%d sound tracks", len(tracks.ids))
            score_rows(tracks, AUDIO, result.of_sound(), options, config, RunStats())
    finally:
        written = result.write()
        write_stats(stats, options.stats)
    return report(stats, dataset.modality.genuine, options, written)


def score_rows(
    rows: ClipDataset, modality: Modality, result: ResultFile, options: argparse.Namespace, config: PipelineConfig,
    stats: RunStats,
) -> None:  # fmt: skip
    """Score the files as `modality`, whatever their own is. Raises: WeightsError."""
    from model.config import SegmentConfig, torch_import
    from model.run.parts import default_weights, load_preparation, load_windows
    from model.run.pipeline import run
    from model.weights import read_ahead

    weights = options.weights if options.weights and modality is rows.modality else default_weights(modality)
    if options.segments:
        preparation = load_windows(modality, weights, SegmentConfig(options.segments))
    else:
        preparation = load_preparation(modality, weights)

    def build_scorer() -> BatchScorer:
        read_ahead(weights)
        with exit_put_off(), torch_import:
            from model.run.parts import load_detector
            from model.run.scoring import BatchScorer, choose_device

            return BatchScorer(
                lambda device: load_detector(modality, weights, device, options.precision),
                choose_device(options.device),
                batch_views=config.batch_views,
            )

    if rows.ids:
        run(rows, result, preparation, build_scorer, config=config, stats=stats)


def check_before(options: argparse.Namespace) -> None:
    """What can be told before the run. Raises: InputError, OutputError, DeviceError."""
    from model.run.inputs import check_folder, check_output
    from model.run.parts import check_device

    if options.dataset:
        check_folder(options.dataset)
    check_output(options.output)
    if options.stats:
        check_output(options.stats)
    with exit_put_off():
        check_device(options.device)


def open_result(
    dataset: ClipDataset, options: argparse.Namespace, *, write_seconds: float
) -> tuple[ResultFile, set[str]]:
    """The result file, and the ids that need no more work.

    Raises: InputError: options that do not go together. ResultError: scores that are there would be lost.
    """
    from model.modality import VIDEO
    from model.rows.submission import ResultError, ResultFile, count_scores, read_results
    from model.run.inputs import InputError

    own = options.dataset is not None and dataset.left_out is not None
    detailed = options.columns == "detailed" if options.columns else own
    if options.segments and not detailed:
        raise InputError("--segments makes a row a window, which no challenge asks for: add --columns detailed")
    if options.sound and not (detailed and dataset.modality is VIDEO):
        raise InputError("--sound goes with videos and detailed columns: add --columns detailed, or --modality video")
    result = ResultFile(
        options.output, dataset.ids, dataset.modality, with_time=options.time, detailed=detailed,
        prior=options.prior, segments=options.segments, sound=bool(options.sound), write_seconds=write_seconds,
    )  # fmt: skip
    if options.resume and options.output.exists():
        return result, result.resume(read_results(options.output))
    if not options.challenge and not options.overwrite and (scores := count_scores(options.output)):
        raise ResultError(
            f"{options.output} holds {scores} scores: --resume goes on with it, --overwrite starts afresh,"
            " --output names another file"
        )
    return result, set()


def write_stats(stats: RunStats, path: Path | None) -> None:
    """What was counted so far, if a file is asked for; without one that can be written the run is none the worse."""
    if path is not None:
        try:
            stats.write(path)
        except OSError as error:
            log.error("cannot write %s: %s", path, error.strerror)


def report(stats: RunStats, genuine: str, options: argparse.Namespace, written: bool) -> int:
    """Log the last lines: how many rows, how many fell back and why, where the file is."""
    for reason, rows in stats.fallbacks.most_common(20):
        log.warning("%d not scored: %s", rows, reason)
    log.info(
        "%d rows: %d scored (%d of them salvaged), %d fell back; %.1f s, %.2f clips/s",
        stats.rows, stats.scored, stats.salvaged, stats.unscored, stats.wall_seconds,
        stats.rows / max(stats.wall_seconds, 1e-9),
    )  # fmt: skip
    log.info(
        "%d generated, %d %s; %d of these are inconclusive: neither side is three times as likely",
        stats.generated, stats.scored - stats.generated, genuine, stats.inconclusive,
    )  # fmt: skip
    log.info("%s %s", "wrote" if written else "COULD NOT WRITE", options.output.absolute())
    if not written:
        return 1
    return 3 if options.strict and stats.unscored else 0


if __name__ == "__main__":
    sys.exit(main())
