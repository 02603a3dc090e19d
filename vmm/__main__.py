# SPDX-License-Identifier: Apache-2.0
"""`python -m vmm`: the command line."""

import sys

from vmm.cli.start import main

sys.exit(main())
