"""`python -m gslice.daemon`."""

import sys

from gslice.core.imports import lasting_imports

with lasting_imports():
    from gslice.daemon.main import main

if __name__ == "__main__":
    sys.exit(main())
