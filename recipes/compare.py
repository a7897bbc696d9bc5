"""Write the table of a comparison into its page: what `make compare` does once the comparison is done.

python recipes/compare.py small runs/compare_small
"""

import argparse
from pathlib import Path

import pandas as pd

from xnowcast.comparison.report import filled

PAGE = Path(__file__).resolve().parents[1] / "docs" / "howto" / "compare.md"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the place in the page")
    parser.add_argument("folder", type=Path, help="of the comparison")
    options = parser.parse_args()
    summary = pd.read_csv(options.folder / "summary.csv")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), options.name, summary), encoding="utf-8")


if __name__ == "__main__":
    main()
