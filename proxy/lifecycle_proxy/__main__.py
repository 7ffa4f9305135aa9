"""``python -m lifecycle_proxy`` is ``lifecycle-proxy``."""

import sys

from lifecycle_proxy.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
