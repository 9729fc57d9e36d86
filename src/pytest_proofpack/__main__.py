"""``python -m pytest_proofpack`` is ``proofpack``. On a stranger's pack: ``python -I -m pytest_proofpack``."""

import sys

from pytest_proofpack.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
