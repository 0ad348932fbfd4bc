"""Commands that show search spaces."""

from __future__ import annotations

import click

from nas.cli.command import SPACE, Command, Group, json_option, print_json


@click.group(cls=Group, help="show search spaces: slots, choices, sites, shapes", example="nas space show demo")
def space() -> None:
    pass


@space.command(
    cls=Command, help="show the slots of a search space, their choices and shapes", example="nas space show demo"
)
@click.argument("name", metavar="S", type=SPACE)
@json_option
def show(name: str, as_json: bool) -> None:
    from dataclasses import asdict

    import pandas as pd

    from nas.spaces import SearchSpace

    loaded = SearchSpace.load(name)
    operators = {n: {"kind": o.kind, **dict(o.options)} for n, o in (loaded.operators or {}).items()}
    rows = []
    for slot, choices in loaded.slots.items():
        shapes = [getattr(loaded.workload(slot, choice), "shape", None) for choice in choices]
        shape = next((shape for shape in shapes if shape), None)
        rows.append({"slot": slot, "site": loaded.site_name(slot), "shape": shape, "choices": list(choices)})
    latent = loaded.latent and {
        name: getattr(loaded.latent, name) for name in ("channels", "frames", "height", "width")
    }
    if as_json:
        numbers = {"name": loaded.name, "hash": loaded.hash, "architectures": loaded.size, "latent": latent}
        numbers["clip"] = loaded.clip and {**asdict(loaded.clip), "seconds": loaded.clip.seconds}
        print_json({**numbers, "operators": operators, "slots": rows})
        return
    size = f"{loaded.size:,}" if loaded.size < 10**12 else f"{loaded.size:.3g}"
    print(f"{loaded.name} ({loaded.hash}): {len(rows)} slots, {size} combinations of choices")
    if latent:
        channels, frames, height, width = latent.values()
        print(
            f"clip: {loaded.clip.seconds:.3g} s, {loaded.clip.frames} frames at {loaded.clip.fps:g} fps, "
            f"{loaded.clip.height}x{loaded.clip.width}"
        )
        print(f"latent: {channels} channels, {frames} frames, {height}x{width}; batch {loaded.batch}, {loaded.dtype}")
    if loaded.backbone is not None:
        print(f"backbone: channels {', '.join(map(str, loaded.backbone.channels))}")
    for name, options in operators.items():
        values = ", ".join(f"{key} {value}" for key, value in options.items() if key != "kind")
        kind = f" ({options['kind']})" if options["kind"] != name else ""
        print(f"operator {name}{kind}: {values or 'no hyperparameters'}")
    frame = pd.DataFrame(rows).assign(
        shape=[f"C {s[1]}, T {s[2]}, {s[3]}x{s[4]}" if s else "-" for s in (row["shape"] for row in rows)],
        choices=[", ".join(row["choices"]) for row in rows],
    )
    widths = {column: max(map(len, [column, *frame[column].astype(str)])) for column in ("slot", "site", "shape")}
    print()
    for row in [dict(zip(frame.columns, frame.columns)), *frame.to_dict("records")]:
        print("  ".join([*(f"{row[name]:<{width}}" for name, width in widths.items()), row["choices"]]))


@space.command("list", cls=Command, help="list the search spaces that come with nas", example="nas space list")
@json_option
def list_shipped(as_json: bool) -> None:
    from nas.spaces import SearchSpace
    from nas.spaces.load import shipped_spaces

    rows = [
        {"name": name, "slots": len(SearchSpace.load(name).slots), "file": str(path)}
        for name, path in shipped_spaces().items()
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print(f"{row['name']:<12} {row['slots']:>3} slots  {row['file']}")
