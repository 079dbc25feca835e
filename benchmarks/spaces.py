"""How many networks and layers each space holds, and how far its MACs reach. Prints a table and writes JSON."""

import json
from pathlib import Path

from edgenas.space import MobileSpace

OUT = Path("benchmarks/results/spaces.json")


def main() -> None:
    rows = []
    for name, shape in (
        ("tiny", (28, 28, 1)),
        ("tiny", (64, 64, 3)),
        ("standard", (96, 96, 3)),
        ("standard", (160, 160, 3)),
        ("standard", (224, 224, 3)),
    ):
        space = MobileSpace(name, shape, classes=10)
        small, large = space.smallest, space.largest
        rows.append(
            {
                "space": name,
                "input": "x".join(map(str, shape)),
                "networks": float(space.size),
                "layers": len(space.layers()),
                "smallest_mmacs": small.macs / 1e6,
                "largest_mmacs": large.macs / 1e6,
                "smallest_parameters": small.parameters,
                "largest_parameters": large.parameters,
            }
        )
    print("  ".join(f"{head:>20}" for head in rows[0]))
    for row in rows:
        print("  ".join(f"{value:>20.4g}" if isinstance(value, float) else f"{value!s:>20}" for value in row.values()))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
