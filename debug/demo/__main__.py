"""A local page to drop a video or a sound on: python -m debug.demo. Nothing leaves this machine, nothing is kept."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile

log = logging.getLogger("debug.demo")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 it was ended, 2 it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m debug.demo", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to bind to; default: %(default)s, this machine")
    parser.add_argument("--port", type=int, default=7860, help="default: %(default)s; 0: any that is free")
    parser.add_argument("--max-megabytes", type=int, default=200, metavar="N", help="of a file; default: %(default)s")
    parser.add_argument("--max-seconds", type=float, default=120, metavar="S", help="for a file; default: %(default)s")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default: CUDA if there is one")
    options = parser.parse_args(arguments)
    if options.max_megabytes < 1 or not options.max_seconds > 0:
        parser.error("--max-megabytes must be 1 or more, and --max-seconds above 0")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr, force=True)
    with tempfile.TemporaryDirectory(prefix="demo-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = os.path.join(folder, "uploads")
        try:
            import uvicorn

            from debug.demo.app import build_app
        except ImportError as error:
            log.error("%s: pip install -r debug/demo/requirements.txt", error)
            return 2
        from debug.demo.look import Looker
        from model.modality import VIDEO
        from model.run.parts import DeviceError
        from model.weights import WeightsError

        try:
            looker = Looker(device=options.device, max_seconds=options.max_seconds)
            looker.load(VIDEO)
        except (DeviceError, WeightsError) as error:
            log.error("%s", error)
            return 2
        hosts = ["*"] if options.host in ("0.0.0.0", "::") else ["127.0.0.1", "localhost", options.host]
        app = build_app(looker, max_bytes=options.max_megabytes << 20, hosts=hosts)
        # uvicorn ends itself on a signal, then raises it again: the clean-up must come before the end of the process.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            uvicorn.run(
                app,
                host=options.host,
                port=options.port,
                log_level="info",
                access_log=False,
                timeout_graceful_shutdown=5,
            )
        except KeyboardInterrupt:
            pass
        finally:
            looker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
