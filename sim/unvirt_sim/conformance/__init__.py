# SPDX-License-Identifier: BSD-2-Clause
"""Which requirements of VIRTIO 1.4 are met, by the tests that name them.

``requirements.csv`` is the catalogue: every device requirement for a network device on PCI, one per row. A test says in its
docstring which rows it checks (``Covers: ID, ID``); the results of the last test run say whether it passed.
"""
