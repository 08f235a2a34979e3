"""The command `vmflow`, which looks whether Python finds our packages: their names are common, others have such, too.

Only the standard library is imported before that is known.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

PACKAGES = ("schemas", "decoders", "agent", "collector")


def stranger() -> str:
    """Why our packages are not those that Python finds, in one line; empty if they are."""
    for name in PACKAGES:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError) as error:
            return f"package {name} cannot be imported: {error}"
        found = [] if spec is None else [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
        if Path(__file__).resolve().parent / name / "__init__.py" not in [Path(one).resolve() for one in found]:
            where = ", ".join(found) or "nowhere"
            return (
                f"package {name} is vmflow's, but Python finds another one first: {where}; "
                "take it out of PYTHONPATH, or install vmflow into a virtual environment of its own"
            )
    return ""


def main() -> int:
    """Run `vmflow COMMAND`; exit code 1 where our packages cannot be found."""
    why = stranger()
    if why:
        sys.stderr.write(f"vmflow: {ascii(why)[1:-1]}\n")
        return 1
    from collector.__main__ import main as run  # noqa: PLC0415 - see above

    return run()


if __name__ == "__main__":
    sys.exit(main())
