"""`python -m gslice`: the command line."""

from gslice.cli.main import main

if __name__ == "__main__":
    main()
