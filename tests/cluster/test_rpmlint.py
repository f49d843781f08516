"""rpmlint finds nothing in the spec and the package but what is meant to be so, and that with its reason."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from images.engine.place import ROOT
from rpm import source
from tests.testbed.cluster.packaged import built

pytestmark = pytest.mark.lane("builds")

CONFIG = ROOT / "rpm/rpmlint.toml"
