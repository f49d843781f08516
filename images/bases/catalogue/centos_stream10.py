"""The base `centos-stream10`."""

from __future__ import annotations

from images.bases.centos import stream

BASE = stream(
    10,
    preference=2,
    key="RPM-GPG-KEY-CentOS-Official-SHA256",
    python="python3",
    builder=("python3", "python3-libs", "python3-pip"),
    cgroups=(2,),
    notes=(
        "its packages need a processor of level x86-64-v3",
        "its systemd starts on cgroup v2 only, which a hybrid machine has beside v1",
    ),
)
