"""The version of all of this, without asking the installation: that costs a daemon a megabyte. A test compares."""

from typing import Final

VERSION: Final = "0.1.0"
