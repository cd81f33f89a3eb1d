# SPDX-License-Identifier: BSD-2-Clause
"""Makes the helpers beside these tests importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
