# SPDX-License-Identifier: BSD-2-Clause
"""The catalogue of requirements, and which of them can apply to a device."""

import csv
from dataclasses import dataclass
from pathlib import Path

from unvirt.net.spec import NET_FEATURES, net_features
from unvirt.virtio.spec import VIRTIO_FEATURES

__all__ = ["Requirement", "load", "offered_features"]

_FILE = Path(__file__).parent / "requirements.csv"


@dataclass(frozen=True)
class Requirement:
    """A row of the catalogue."""

    id: str
    area: str
    level: str
    feature: str
    requirement: str
    section: str
    side: str

    def applies(self, offered):
        """Return whether the row can apply to a device that offers these features.

        ``A;B`` needs both, ``A|B`` one of them, ``A=0`` that A is not negotiated, which a driver can always choose.
        """
        if self.area == "legacy":
            return False          # only a transitional device has the legacy interface
        return all(any(name.endswith("=0") or name in offered for name in group.split("|"))
                   for group in self.feature.split(";") if group)


def load(path=_FILE):
    """Return the rows of the catalogue in order, as a dictionary by id."""
    with open(path, newline="", encoding="utf-8") as file:
        return {row["id"]: Requirement(**row) for row in csv.DictReader(file)}


def offered_features(config=None):
    """Return the names of the features that a device of this configuration offers, by default one that has everything."""
    return ({f"VIRTIO_F_{feature.name}" for feature in VIRTIO_FEATURES}
            | {f"VIRTIO_NET_F_{feature.name}" for feature in (NET_FEATURES if config is None else net_features(config))})
