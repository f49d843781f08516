"""The base `centos-stream9`."""

from __future__ import annotations

from images.bases.centos import stream

BASE = stream(
    9,
    preference=1,
    key="RPM-GPG-KEY-CentOS-Official",
    python="python3.11",
    builder=("python3.11", "python3.11-libs", "python3.11-pip"),
)
