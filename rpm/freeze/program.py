"""The script that PyInstaller freezes: the program `overlayd`, which may be called by another name too."""

import sys

from overlayd.__main__ import main

sys.exit(main())
