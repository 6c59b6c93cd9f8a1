"""`python -m jaxencoder`: the same command as `jaxencoder`."""

import sys

from jaxencoder.cli import main

sys.exit(main())
