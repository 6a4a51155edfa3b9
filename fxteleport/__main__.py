"""`python -m fxteleport`: the command line."""

from fxteleport.tools.cli import main

if __name__ == "__main__":
    main()
