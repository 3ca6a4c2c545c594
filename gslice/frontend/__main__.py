"""`python -m gslice.frontend`."""

from gslice.core.lifetime import lasting_imports, leave

with lasting_imports():
    from gslice.frontend.main import main

if __name__ == "__main__":
    main()
    leave()
