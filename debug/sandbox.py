"""Run a command as the evaluation does, with the network off: `python -m debug.sandbox [--time-limit S] COMMAND ...`.

The evaluation's sandbox lets every system call through except those in DENIED, which return EPERM. The same filter is
built here with libseccomp, through the package pyseccomp, and is inherited by every process the command starts. Like
theirs it denies neither `socket`, `bind`, `listen`, `socketpair` nor the newer `accept4`, `sendmmsg` and `recvmmsg`.

Needs Linux. Exit code: the command's; 124 after the time limit, 125 if the filter cannot be set, 127 without a command.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

DENIED = (
    "connect", "accept", "send", "sendto", "sendmsg", "recv", "recvfrom", "recvmsg", "setsockopt", "getsockopt",
)  # fmt: skip
EXIT_TIMED_OUT, EXIT_NO_FILTER, EXIT_NO_COMMAND = 124, 125, 127  # as `timeout` and `docker run` have them
_NOT_ON_THIS_ARCHITECTURE = {"send", "recv"}  # x86-64 has no such system calls; the C library uses sendto, recvfrom


class SandboxError(Exception):
    """The filter cannot be set on this machine. The message says what is missing and how to get it."""


class SandboxedProcess(subprocess.CompletedProcess[str]):
    """timed_out: the whole process group was killed with SIGKILL at the time limit; returncode is then -9."""

    timed_out: bool = False


def run_sandboxed(
    argv: Sequence[str],
    *,
    timeout: float | None = None,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    capture_output: bool = True,
    pyseccomp_dir: str | os.PathLike[str] | None = None,
) -> SandboxedProcess:
    """Run a command under the filter and wait for it.

    timeout: seconds; then SIGKILL for the command and all it started, as in the evaluation. pyseccomp_dir: a folder
    that holds pyseccomp, for an interpreter that lacks it. Raises: SandboxError: no filter on this machine.
    """
    load_pyseccomp(pyseccomp_dir)  # here too: an error is clearer before anything was started
    command = [sys.executable, str(Path(__file__).resolve())]
    if pyseccomp_dir is not None:
        command += ["--pyseccomp", str(pyseccomp_dir)]
    pipe = subprocess.PIPE if capture_output else None
    with subprocess.Popen(
        [*command, *argv], cwd=cwd, env=env, stdout=pipe, stderr=pipe, text=True, errors="replace",
        start_new_session=True,
    ) as process:  # fmt: skip
        timed_out = False
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            timed_out = True
            _kill_group(process)
            stdout, stderr = process.communicate()
        finally:
            if process.poll() is None:  # Ctrl-C does not reach the command: it has a session of its own
                _kill_group(process)
    result = SandboxedProcess(list(argv), process.returncode, stdout, stderr)
    result.timed_out = timed_out
    return result


def _kill_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself just now
        os.killpg(process.pid, signal.SIGKILL)


def load_pyseccomp(folder: str | os.PathLike[str] | None = None) -> ModuleType:
    """Import pyseccomp, from `folder` if given.

    Raises: SandboxError: the package or the library libseccomp is not there.
    """
    if sys.platform != "linux":
        raise SandboxError(f"the sandbox's filter is Linux's seccomp; this is {sys.platform}: use debug/Dockerfile")
    if folder is not None and str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        import pyseccomp
    except ImportError as error:
        raise SandboxError(f"{error}: run `pip install -r tests/requirements.txt`") from error
    except (RuntimeError, OSError) as error:
        raise SandboxError(
            f"the library libseccomp is not there ({error}): run `apt-get install libseccomp2`"
        ) from error
    return pyseccomp


def install_filter(pyseccomp: ModuleType) -> None:
    """Deny the calls to this process and all it starts from now on; there is no way back.

    Raises: SandboxError: the kernel refuses, or a name is unknown.
    """
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in DENIED:
        try:
            rules.add_rule(pyseccomp.ERRNO(errno.EPERM), name)
        except (OSError, ValueError) as error:
            if name not in _NOT_ON_THIS_ARCHITECTURE:
                raise SandboxError(f"libseccomp knows no system call {name!r} here: {error}") from error
    try:
        rules.load()
    except OSError as error:
        raise SandboxError(f"the kernel does not take a seccomp filter: {error}; see debug/Dockerfile") from error


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--time-limit", type=float, metavar="S", help="seconds, then SIGKILL for the whole group")
    parser.add_argument("--pyseccomp", metavar="DIR", help="folder that holds the package pyseccomp")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="program and its arguments")
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.print_usage(sys.stderr)
        return EXIT_NO_COMMAND
    try:
        if options.time_limit is not None:
            result = run_sandboxed(
                command, timeout=options.time_limit, capture_output=False, pyseccomp_dir=options.pyseccomp
            )
            return EXIT_TIMED_OUT if result.timed_out else result.returncode
        install_filter(load_pyseccomp(options.pyseccomp))
    except SandboxError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return EXIT_NO_FILTER
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"sandbox: cannot run {command[0]}: {error.strerror}", file=sys.stderr)
        return EXIT_NO_COMMAND


if __name__ == "__main__":
    sys.exit(main())
