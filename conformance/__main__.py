"""
``python -m conformance``: the program.
"""

import sys

from conformance._suite.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
