"""Reach a Ray cluster, or start one on this machine alone that nobody else can reach and that ends with the run."""

import importlib
import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Any

from ovam.dataset.ray_share import Resources
from ovam.errors import MissingPackageError, OptionError, OvamError

_LOOPBACK = "127.0.0.1"
_STORE = 128 * 2**20  # bytes of the object store of a cluster of our own: only numbers pass through it
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what it will be in Ray's next release; unset, Ray warns
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # what goes wrong comes back as an error; this would print beside it
}
_ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's servers listen on all addresses unless it is told this
    "RAY_AUTH_MODE": "token",  # other users of this machine reach the loopback address too
}
_DEATHS = 10  # while it starts, a worker may be killed so often, in a row, before Ray ends the job


@contextmanager
def cluster(address: str) -> Iterator[Resources]:
    """Connect to a cluster, or start one, for a `with` block; a connection that was there before stays.

    A cluster that is started here listens only on the loopback address and accepts only commands with a token that is
    made for it. It has no dashboard, and sends no usage statistics.

    Args:
        address: Address of a cluster, "auto", or "" to start one.

    Raises:
        MissingPackageError: Ray is not installed.
        OptionError: the cluster can't be reached.
    """
    with ExitStack() as stack:
        alone = {} if address else _ALONE | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
        stack.enter_context(_set(_QUIET | alone))  # before Ray is imported, which reads some of them then
        ray = _loaded()
        if not ray.is_initialized():
            _quiet()
            scratch = "" if address else stack.enter_context(_scratch())
            with _silent():  # Ray's compiled part tells on stderr how much it will tell
                _connected(ray, address) if address else _started(ray, scratch)
            stack.enter_context(redirect_stdout(sys.stderr))  # Ray tells there of workers that died
            stack.callback(ray.shutdown)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars, context.max_consecutive_actor_init_deaths = False, _DEATHS
        found = ray.cluster_resources()
        machines = sum(1 for node in ray.nodes() if node["Alive"])
        yield Resources(float(found.get("CPU", 1)), float(found.get("GPU", 0)), machines)


def _loaded() -> Any:
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError as error:
        raise MissingPackageError(
            f"Ray can't be loaded ({error}), it is no part of ovam: pip install 'ovam[ray]'"
        ) from error
    return ray


def _started(ray: Any, scratch: str) -> None:
    cores = os.cpu_count() or 1
    ray.init(
        address="local",
        num_cpus=max(2, cores),
        include_dashboard=False,
        object_store_memory=_STORE,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address=_LOOPBACK,
        _temp_dir=scratch,
    )


def _connected(ray: Any, address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OptionError(
            f"no Ray cluster can be reached at {address!r} ({reason}): expected an address such as 10.0.0.5:6379, or "
            "auto on a machine of the cluster; `ray start --head` starts one"
        ) from error


def _quiet() -> None:
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def _scratch() -> Iterator[str]:
    """A folder for Ray's sockets and logs; its name is short, since names of sockets may have 107 bytes at most."""
    folder = tempfile.mkdtemp(prefix="ovam-ray-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _silent() -> Iterator[None]:
    """Throw away what compiled code writes to stderr; Python's own stream is not changed."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a file of ours
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _set(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def errors_of_ray() -> Iterator[None]:
    """Raise errors of workers again as they were raised there; turn Ray's own errors into one that says what to do.

    Raises:
        OvamError: the job was ended by Ray.
    """
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, OvamError):
            raise cause from None
        raise OvamError(_message_of(error, cause)) from error
    except RayError as error:
        raise OvamError(_message_of(error, error)) from error


def _message_of(error: Exception, cause: BaseException) -> str:
    lines = str(cause).strip().splitlines() or [type(error).__name__]
    return (
        f"Ray ended the job ({type(cause).__name__}: {lines[-1].strip()}): finished items are complete, and the "
        "same command continues"
    )
