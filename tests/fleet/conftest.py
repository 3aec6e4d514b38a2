"""Small datasets and a cluster of several nodes on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from debug.layouts import MediaFile, write_parquet
from model.modality import VIDEO
from tests.conftest import ROOT
from tests.toy_clips import ClipSpec, render

# Of the S3 server that stands in for a store; it takes any.
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture(scope="session")
def contents() -> list[bytes]:
    """Three short clips and a broken one."""
    clips = [render(ClipSpec(width=64, height=64, num_frames=4 + n, options={"crf": str(20 + n)})) for n in range(3)]
    return [*clips, b"\0\0\0 ftypisom" + bytes(40)]


@pytest.fixture(scope="session")
def dataset(contents: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 rows in three parquet shards; every fourth one is broken, and one id stands twice."""
    folder = tmp_path_factory.mktemp("fleet") / "data"
    names = [f"clip-{n:02d}" for n in range(60)]
    names[41] = names[3]
    rows = (MediaFile(name, f"{name}.mp4", contents[n % 4]) for n, name in enumerate(names))
    assert write_parquet(rows, folder, VIDEO, shard_rows=20, group_rows=5) == 3
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without cores, and two nodes of one core each; this process is the driver."""
    import ray
    from ray.cluster_utils import Cluster

    nodes = start_patiently(
        lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    )
    for _ in range(2):
        start_patiently(lambda: nodes.add_node(num_cpus=1))
    ray.init(address=nodes.address, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), **KEYS}}, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def start_patiently(start: Callable[[], Any], attempts: int = 5) -> Any:
    """Ray gives a node 30 s to start, which on a busy machine is too short."""
    for attempt in range(attempts):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error) or attempt == attempts - 1:
                raise
    raise AssertionError("not reached")
