"""Copy the events that the recipes learn from into one small folder, to take along to another machine.

    python recipes/pack.py packed --megabytes 40

The files stay as they are, but for the American tiles, of which as many as fit come along, evenly chosen by place.
"""

import argparse
import shutil
from pathlib import Path

import xarray as xr
from pretrain import CHOOSING, MEMBERS_TRAINING, TILES, TRAINING

PACKING = ("dtype", "scale_factor", "add_offset", "_FillValue")
SPARE = 0.9  # of the room is filled: tiles are not equally large


def pack(data: Path, out: Path, megabytes: float) -> None:
    """Copy the events, then as many tiles as there is room for."""
    out.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys([*TRAINING, *MEMBERS_TRAINING, *CHOOSING]):
        shutil.copy2(data / f"{name}.nc", out)
    room = megabytes - sum(path.stat().st_size for path in out.glob("*.nc") if path.stem != TILES) / 1e6
    source = data / f"{TILES}.nc"
    every = max(1, -(-source.stat().st_size // int(max(room * SPARE, 1.0) * 1e6)))
    with xr.open_dataset(source) as tiles:
        if every >= tiles.sizes["tile"]:
            raise SystemExit(f"{megabytes:g} MB are too few: {megabytes - room:.1f} are taken before the first tile")
        packed = {
            name: {key: tiles[name].encoding[key] for key in PACKING if key in tiles[name].encoding} | {"zlib": True}
            for name in tiles.data_vars
        }
        tiles.isel(tile=slice(None, None, every)).to_netcdf(out / source.name, encoding=packed)
    taken = sum(path.stat().st_size for path in out.glob("*.nc")) / 1e6
    print(f"{taken:.1f} MB in {out}, one of {every} tiles among them")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=beside, help="folder with the events as CF NetCDF")
    parser.add_argument("--megabytes", type=float, default=40.0, help="that the folder may have")
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"the real events are not in {options.data}: give their folder with --data")
    pack(options.data, options.out, options.megabytes)


if __name__ == "__main__":
    main()
