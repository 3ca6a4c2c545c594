"""`python -m gslice.worker`."""

import sys

from gslice.core.lifetime import lasting_imports

with lasting_imports():
    from gslice.worker.main import main

if __name__ == "__main__":
    sys.exit(main())
