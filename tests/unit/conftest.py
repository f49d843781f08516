"""What tests of this folder need beside Python."""

from __future__ import annotations

import pytest

# By the folder or the file: `make check` leaves these out.
NEEDS = {
    "tests/unit/store/": "etcd",
    "tests/unit/fuzz/": "half a minute of processor",
    "tests/unit/nightly/test_night.py": "half a minute of processes that wait",
    "tests/unit/nightly/test_parts.py": "half a minute of processes that wait",
    "tests/unit/images/test_etcd_setup.py": "etcd",
    "tests/unit/images/test_etcd_setup_steps.py": "etcd",
    "tests/unit/doctor/test_etcd.py": "etcd",
    "tests/unit/doctor/test_tls.py": "etcd",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them."""
    for item in items:
        for path, what in NEEDS.items():
            if item.nodeid.startswith(path):
                item.add_marker(pytest.mark.needs(what))
