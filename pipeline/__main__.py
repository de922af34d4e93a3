"""`python -m pipeline` is `t2t-edge`."""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main())
