"""`python -m dfs`: the command line."""

import sys

from dfs.cli import main

if __name__ == "__main__":
    sys.exit(main())
