"""What PyInstaller starts from: the program `overlayd`, under whichever name it is called."""

import sys

from overlayd.__main__ import main

sys.exit(main())
