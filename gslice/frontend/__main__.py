"""`python -m gslice.frontend`."""

from gslice.core.imports import lasting_imports

with lasting_imports():
    from gslice.frontend.main import main

if __name__ == "__main__":
    main()
