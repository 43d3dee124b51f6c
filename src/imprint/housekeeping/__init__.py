"""A home kept in order: looked over, put into one file, and brought back from it.

    verifying.py   what was published is there and unchanged; what nobody speaks of is told, and swept on request
    backing_up.py  a home as one file, and a home from such a file
"""

from imprint.housekeeping.backing_up import Backup, backup, restore
from imprint.housekeeping.verifying import Verified, sweep, verify

__all__ = ["Backup", "Verified", "backup", "restore", "sweep", "verify"]
