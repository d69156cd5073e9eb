"""What all tests share: repeatable properties, one thread, no network, and files that stay together on a worker."""

import os
import signal
import socket

import hypothesis
import pytest
import torch

from study import processes

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")

# Who starts the tests in the background (a shell, nohup) may have these ignored, and every process that a test starts
# would inherit that: a signal would then end nothing, and whoever waits for the end would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Bound PyTorch to one thread, as the workers of the experiment are."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def no_network() -> None:
    """Refuse every host but this machine, also to pip in child processes: a test never downloads."""
    resolve = socket.getaddrinfo

    def local_only(host, *rest, **options):
        if host not in (None, "localhost", "127.0.0.1", "::1"):
            raise AssertionError(f"a test asks the network for {host!r}")
        return resolve(host, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", local_only)
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("DVC_NO_ANALYTICS", "1")
        yield


@pytest.fixture(autouse=True)
def own_cpu_level():
    """A command that pins this process's children pins those of its test alone: later workers round as we do."""
    before = {name: os.environ.get(name) for name in processes.AVX2}
    yield
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})


class StderrNotCompared:
    """Compare notebooks without stderr, which depends on the terminal and not on the results."""

    @staticmethod
    def pytest_collectstart(collector: pytest.Collector) -> None:
        if hasattr(collector, "skip_compare"):
            collector.skip_compare += ("stderr",)


# What takes longest begins first, or one worker would end with it alone.
LONGEST = ("test_pipeline.py", "test_faults.py", "test_staleness.py", "04_deploy.ipynb")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order in which workers take files; a file's tests share its fixtures, a notebook's cells its kernel."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_configure(config: pytest.Config) -> None:
    """Register the hook for notebooks/, too: a conftest's own hooks see the files below it alone."""
    config.pluginmanager.register(StderrNotCompared())
