"""Labels probably missing or wrong.

For instance:

    python audit.py --dataset table --table labels.csv --path_images images
    python audit.py --dataset table --table labels.csv --path_images images --next 100
    python audit.py --dataset table --table labels.csv --path_images images --apply decisions.csv
"""

from collections.abc import Sequence

from engine.core.cli import run
from engine.core.usage import check_usage


def main(argv: Sequence[str] | None = None) -> int:
    """Rank labels, list images, or correct a table; returns the exit code."""
    check_usage("audit.py", argv)
    from engine.audit.command import audit_command  # takes seconds to import, torch with it

    return audit_command(argv)


if __name__ == "__main__":
    run(main)
