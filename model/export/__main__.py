"""A detector as an ONNX file: python -m model.export OUT.onnx [--modality audio] [--clips FOLDER].

The graph goes from prepared views, what the networks eat, to the score. It is checked against the project's own scores
in float32 before it is written: over made-up clips, or over those of --clips.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from ..atomic import replace_file
from ..modality import MODALITIES
from ..run.inputs import InputError, OutputError, check_output
from ..run.parts import default_weights
from ..weights import WeightsError, load_manifest

CLIPS = 40  # of the check
LARGEST_DIFFERENCE = 1e-3  # of a score

log = logging.getLogger("model.export")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 written, 1 the scores differ and nothing is written, 2 cannot start."""
    parser = argparse.ArgumentParser(
        prog="python -m model.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, metavar="OUT.onnx")
    parser.add_argument("--modality", choices=MODALITIES, default="video", help="default: %(default)s")
    parser.add_argument("--weights", type=Path, help="folder with manifest.json; default: weights/MODALITY")
    parser.add_argument(
        "--clips", nargs="+", default=[], metavar="PATH", help=f"files or folders; up to {CLIPS} files are checked"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr, force=True)
    try:
        from . import check
        from .build import build_onnx
    except ImportError as error:
        log.error("%s: pip install -r model/export/requirements.txt", error)
        return 2
    modality = MODALITIES[options.modality]
    weights = options.weights or default_weights(modality)
    try:
        check_output(options.output)
        manifest = load_manifest(weights)
        if options.clips:
            clips = check.prepare_files(options.clips, modality, weights, CLIPS)
        else:
            clips = check.draw_clips(modality, weights, CLIPS)
        content = build_onnx(manifest)
        difference = check.largest_difference(content, modality, weights, clips)
    except (InputError, OutputError, WeightsError) as error:
        log.error("%s", error)
        return 2
    told = f"scores of {len(clips)} {'files' if options.clips else 'made-up clips'} differ by {difference:.1e} at most"
    if not difference <= LARGEST_DIFFERENCE:
        log.error("%s; %g is allowed: nothing is written", told, LARGEST_DIFFERENCE)
        return 1
    replace_file(options.output, content)
    log.info("wrote %s (%.0f MB): %s", options.output, len(content) / 1e6, told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
