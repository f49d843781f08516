"""`invoke --list` shows what can be done. This file only gathers: the work is in the collections it names."""

from __future__ import annotations

import sys
from pathlib import Path

from invoke.collection import Collection

# The daemon of this checkout, also where the virtual environment is another one's.
sys.path.insert(0, str(Path(__file__).resolve().parent / "daemon"))

import images.reporting
import images.ship.task_collection
import images.task_collection
import rpm.task_collection
import tests.perf.task_collection
import tests.task_collection
import tests.testbed.cluster.task_collection

namespace = Collection()
namespace.add_task(images.task_collection.build_all, name="build-all")
for short in (tests.task_collection.namespace, tests.perf.task_collection.namespace):
    for name in short.task_names:
        namespace.add_task(short[name], name=name)
namespace.add_task(images.ship.task_collection.release, name="release")
for shipped in (images.ship.task_collection.push, images.ship.task_collection.save, images.ship.task_collection.load):
    images.task_collection.namespace.add_task(shipped)
namespace.add_collection(images.task_collection.namespace)
namespace.add_collection(rpm.task_collection.namespace)
namespace.add_collection(tests.testbed.cluster.task_collection.namespace)
images.reporting.cover(namespace)
images.reporting.guard()
