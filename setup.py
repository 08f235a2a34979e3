"""The README as package indexes show it; all else is in pyproject.toml.

Its links lead to files beside it, which an index does not have: their text stands alone there.
"""

import re
from pathlib import Path

from setuptools import setup

LINK_TO_A_FILE = re.compile(r"!?\[([^]]+)\]\((?!https?://)[^)]*\)")

setup(
    long_description=LINK_TO_A_FILE.sub(r"\1", Path(__file__).with_name("README.md").read_text("utf-8")),
    long_description_content_type="text/markdown",
)
