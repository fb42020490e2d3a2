#!/usr/bin/env python3
"""Makes src/report/font/*.otf, the lettering of contact sheets: Inter, cut down to the characters of Latin scripts.

Inter is under the SIL Open Font License 1.1 (src/report/font/LICENSE.txt). The originals come from Debian's package
`fonts-inter` 4.0~beta7+ds-1 and are checked against the hashes below:

    apt-get download fonts-inter && dpkg -x fonts-inter_*.deb inter
    pip install fonttools==4.60.1
    python scripts/make_font.py inter/usr/share/fonts/opentype/inter            # writes
    python scripts/make_font.py inter/usr/share/fonts/opentype/inter --check    # compares, exit 1 on a difference

The layout tables go (the sheet's lettering sets one glyph after the other by its advance), the digits become the
tabular ones so that scores below each other line up, and the hints go, which nothing here reads.
"""

import argparse
import hashlib
import io
import sys
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont

ORIGINALS = {
    "Inter-Regular": "a7e791e8f5a0fb02b65663f7fca73e1d1ca9543f772ad480cbd76f4e3fe3f8cc",
    "Inter-SemiBold": "8c1990b6012254ea2b487161697d107357dd0ee55811cfd91c8c11227bbef457",
}
# Basic Latin, Latin-1, punctuation and signs; for running text (keys, messages) Latin Extended-A and Greek letters too.
COMMON = [*range(0x20, 0x7F), *range(0xA0, 0x100), *map(ord, "–—‘’“”…→−≈≤≥∞")]
CHARACTERS = {
    "Inter-Regular": [*COMMON, *range(0x100, 0x180), *map(ord, "αβγδθλμπστφω")],
    "Inter-SemiBold": COMMON,
}
FOLDER = Path(__file__).resolve().parent.parent / "src" / "report" / "font"


def tabular_digits(font: TTFont) -> None:
    """Points the digits' code points at the glyphs that the font's `tnum` feature would put there."""
    single = {}
    gsub = font["GSUB"].table
    for record in gsub.FeatureList.FeatureRecord:
        if record.FeatureTag == "tnum":
            for index in record.Feature.LookupListIndex:
                for table in gsub.LookupList.Lookup[index].SubTable:
                    single.update(getattr(table, "mapping", getattr(getattr(table, "ExtSubTable", None), "mapping", {})))
    for table in font["cmap"].tables:
        if table.isUnicode():
            for digit in range(0x30, 0x3A):
                table.cmap[digit] = single.get(table.cmap[digit], table.cmap[digit])


def subset(path: Path, characters: list[int]) -> bytes:
    font = TTFont(path, recalcTimestamp=False)
    tabular_digits(font)
    options = Options()
    options.layout_features = []
    options.hinting = False
    options.desubroutinize = False
    options.name_IDs = [0, 1, 2, 13, 14]
    options.name_languages = [0x409]
    options.drop_tables += ["GSUB", "GPOS", "GDEF", "DSIG", "STAT", "meta"]
    options.notdef_outline = True
    options.recalc_timestamp = False
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=characters)
    subsetter.subset(font)
    out = io.BytesIO()
    font.save(out, reorderTables=True)
    return out.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("originals", type=Path, help="folder that holds Inter-Regular.otf and Inter-SemiBold.otf")
    parser.add_argument("--check", action="store_true", help="compare with the committed files instead of writing them")
    args = parser.parse_args()
    differs = False
    for name, sha256 in ORIGINALS.items():
        path = args.originals / f"{name}.otf"
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != sha256:
            print(f"{path}: sha256 {found}, not {sha256}: another version of the font", file=sys.stderr)
            return 1
        data = subset(path, CHARACTERS[name])
        target = FOLDER / f"{name}.otf"
        if args.check:
            same = target.exists() and target.read_bytes() == data
            differs |= not same
            print(f"{target.name}: {'as committed' if same else 'differs from what is committed'}")
        else:
            target.write_bytes(data)
            print(f"{target.name}: {len(data)} bytes")
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main())
