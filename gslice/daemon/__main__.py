"""`python -m gslice.daemon`."""

from gslice.core.lifetime import lasting_imports, leave

with lasting_imports():
    from gslice.daemon.main import main

if __name__ == "__main__":
    leave(main())
