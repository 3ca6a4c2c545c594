"""`python -m gslice.daemon`."""

import sys

from gslice.daemon.main import main

if __name__ == "__main__":
    sys.exit(main())
