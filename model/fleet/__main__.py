"""Score a dataset on many machines: python -m model.fleet --dataset URI --output FOLDER [--address auto].

Reads what `script.py --dataset` reads, from a path that every node sees, or shards (parquet, tar) from a store such as
s3://BUCKET/FOLDER. The output folder gets a shard for each piece of the dataset and at the end submission.csv, with
script.py's rows and scores. The same command a second time does only what is missing.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from ..modality import MODALITIES
from ..rows.dataset import DatasetError
from ..weights import WeightsError, load_manifest
from .build import PRECISIONS, BuildConfig
from .pieces import cut_dataset
from .store import FleetError, Store

REPOSITORY = Path(__file__).resolve().parent.parent.parent
_NOT_SHIPPED = [".git", ".venv", ".cache", "tests", "**/__pycache__"]  # to the nodes

log = logging.getLogger("model.fleet")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m model.fleet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, metavar="URI", help="a path that every node sees, or a store's URI")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="path or URI, seen by every node")
    parser.add_argument("--address", help="of a Ray cluster: auto on one of its nodes; default: this machine")
    parser.add_argument("--modality", choices=sorted(MODALITIES), help="default: the dataset tells")
    parser.add_argument("--weights", type=Path, help="folder with manifest.json; default: weights/<modality>")
    parser.add_argument("--cores", type=int, default=1, metavar="N", help="of each detector; default: %(default)s")
    parser.add_argument("--gpus", type=float, default=0, metavar="N", help="of each detector; default: %(default)s")
    parser.add_argument("--detectors", type=int, default=0, metavar="N", help="at most; default: all that fit")
    parser.add_argument("--piece", type=int, default=512, metavar="ROWS", help="of a piece; default: %(default)s")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of networks on a CPU")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 done, 2 cannot start or go on; what is done stays."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr, force=True)
    try:
        import ray

        from .drive import FleetConfig, run_fleet
    except ImportError as error:
        log.error("%s: install model/fleet/requirements.txt", error)
        return 2
    try:
        cut = cut_dataset(options.dataset, MODALITIES.get(options.modality or ""), options.piece)
        weights = options.weights or REPOSITORY / "weights" / cut.modality.name
        manifest = load_manifest(weights)
        log.info("%s: %d pieces", cut.description, cut.num_pieces)
        connect(options.address)
        folder = weights.absolute()
        if options.address and folder.is_relative_to(REPOSITORY):
            folder = folder.relative_to(REPOSITORY)  # in the nodes' copy of the repository, where actors start
        rows = run_fleet(
            cut,
            Store(options.output),
            manifest.sha256,
            BuildConfig(cut.modality.name, str(folder), options.precision),
            FleetConfig(options.cores, options.gpus, options.detectors),
        )
    except (DatasetError, FleetError, WeightsError) as error:
        log.error("%s", error)
        return 2
    finally:
        ray.shutdown()
    log.info("wrote %s/submission.csv: %d rows", options.output.rstrip("/"), rows)
    return 0


def connect(address: str | None) -> None:
    """Start Ray on this machine, or join a cluster, whose nodes get a copy of the repository."""
    import ray

    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    if address is None:
        ray.init(runtime_env={"env_vars": {"PYTHONPATH": str(REPOSITORY)}}, include_dashboard=False, log_to_driver=True)
    else:
        ray.init(address, runtime_env={"working_dir": str(REPOSITORY), "excludes": _NOT_SHIPPED})


if __name__ == "__main__":
    sys.exit(main())
