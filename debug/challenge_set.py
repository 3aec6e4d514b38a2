"""Build the debug dataset: `python -m debug.challenge_set OUT [--modality audio] [--layout parquet|files|...]`.

About two dozen short clips. Video: real footage as shipped and re-encoded, rendered scenes as "generated". Audio: real
speech as "pristine", voices from a formant synthesiser as "generated". Several codecs, containers and shapes, a damaged
file that can be salvaged and broken ones that cannot be read (source `broken`). The scores mean little: it shows that
everything runs. OUT gets

    data/           the dataset, split `test`, columns id and video or audio, in one of the challenge's layouts
    solution.csv    id,pred,source,split

The same versions of PyAV and PyArrow give the same bytes.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from debug import audio_examples, video_examples
from debug.layouts import LAYOUTS, Example, write_solution
from debug.packaged import FOOTAGE, SPEECH, Package, PackageError, load_files
from model.modality import MODALITIES

CACHE_DIR = Path(__file__).resolve().parent.parent / ".cache" / "debug"
# Modality -> the package with real recordings, and what makes examples of them (of an empty mapping: of stand-ins)
BUILDERS: Mapping[str, tuple[Package, Callable[[Mapping[str, bytes]], list[Example]]]] = {
    "video": (FOOTAGE, video_examples.build_examples),
    "audio": (SPEECH, audio_examples.build_examples),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to make; its data/ and solution.csv are replaced")
    parser.add_argument("--modality", choices=MODALITIES, default="video", help="default: %(default)s")
    parser.add_argument("--layout", choices=LAYOUTS, default="parquet", help="default: %(default)s")
    parser.add_argument(
        "--cache", type=Path, default=CACHE_DIR, help="where fetched recordings are kept; default: %(default)s"
    )
    parser.add_argument("--no-recordings", action="store_true", help="fetch nothing: stand-ins for real recordings")
    options = parser.parse_args(arguments)
    package, build_examples = BUILDERS[options.modality]
    recordings: dict[str, bytes] = {}
    if not options.no_recordings:
        try:
            recordings = load_files(package, options.cache)
        except PackageError as error:
            print(f"warning: no real recordings, stand-ins take their place: {error}", file=sys.stderr)
    examples = build_examples(recordings)
    shutil.rmtree(options.out / "data", ignore_errors=True)
    options.out.mkdir(parents=True, exist_ok=True)
    LAYOUTS[options.layout](examples, options.out / "data", MODALITIES[options.modality])
    write_solution(examples, options.out / "solution.csv")
    size = sum(len(example.content) for example in examples) / 1e6
    unreadable = sum(not example.readable for example in examples)
    print(f"{len(examples)} clips ({unreadable} broken), {size:.1f} MB, {options.layout}: {options.out / 'data'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
