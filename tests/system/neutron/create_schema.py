"""Makes Neutron's tables in an empty database; runs under the Python of the system, where Debian installs Neutron.

`neutron-db-manage upgrade head` cannot: its migrations alter constraints, which SQLite does not know.  The models are
the same; Neutron's own unit tests make their databases so.
"""

import sys

from neutron.db.migration.models import head  # type: ignore[import-not-found]
from sqlalchemy import create_engine  # type: ignore[import-not-found]

head.get_metadata().create_all(create_engine(sys.argv[1]))
