"""``python -m xnowcast`` is ``xnowcast``."""

import sys

from xnowcast.cli import main

sys.exit(main())
