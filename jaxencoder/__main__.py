"""`python -m jaxencoder`: the same command as `jaxencoder`."""

import sys

from jaxencoder.cli.main import main

sys.exit(main())
