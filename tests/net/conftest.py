# SPDX-License-Identifier: BSD-2-Clause
"""Makes the helpers of the queue engine's tests importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "virtio" / "queue"))
