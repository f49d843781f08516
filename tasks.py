"""`invoke --list` shows what can be done. This file only gathers: the work is in the collections it names."""

from __future__ import annotations

import sys
from pathlib import Path

from invoke.collection import Collection

# The daemon of this checkout, also where the virtual environment is another one's.
sys.path.insert(0, str(Path(__file__).resolve().parent / "daemon"))

import pipeline.image_tasks
import pipeline.rpm_tasks
import pipeline.ship_tasks
import tests.nightly.task_collection
import tests.perf.task_collection
import tests.task_collection
import tests.testbed.cluster.task_collection
from pipeline import reporting

namespace = Collection()
namespace.add_task(pipeline.image_tasks.build_all, name="build-all")
for short in (tests.task_collection.namespace, tests.perf.task_collection.namespace):
    for name in short.task_names:
        namespace.add_task(short[name], name=name)
namespace.add_task(pipeline.ship_tasks.release, name="release")
namespace.add_collection(pipeline.image_tasks.namespace)
namespace.add_collection(pipeline.rpm_tasks.namespace)
namespace.add_collection(tests.testbed.cluster.task_collection.namespace)
namespace.add_collection(tests.nightly.task_collection.namespace)
reporting.cover(namespace)
reporting.guard()
