"""Commands on search spaces: what one offers."""

from __future__ import annotations

import argparse

from nas.cli.command import add, as_json, command, print_json


def _declare(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = add(actions, "show", "the slots of a search space, their choices and shapes", "nas space show demo")
    show.add_argument("space", metavar="S", help="a shipped search space's name, or a .yaml path")
    as_json(show)
    shipped = add(actions, "list", "the search spaces that come with nas", "nas space list")
    as_json(shipped)


@command("space", "what a search space offers: slots, choices, sites, shapes", "nas space show demo", _declare)
def space(args: argparse.Namespace) -> None:
    return {"show": _show, "list": _list}[args.action](args)


def _show(args: argparse.Namespace) -> None:
    import pandas as pd

    from nas.spaces import SearchSpace

    this = SearchSpace.load(args.space)
    operators = {n: {"kind": o.kind, **dict(o.options)} for n, o in (this.operators or {}).items()}
    rows = []
    for slot, choices in this.slots.items():
        shapes = [getattr(this.workload(slot, choice), "shape", None) for choice in choices]
        shape = next((shape for shape in shapes if shape), None)
        rows.append({"slot": slot, "site": this.site_name(slot), "shape": shape, "choices": list(choices)})
    clip = this.latent and {name: getattr(this.latent, name) for name in ("channels", "frames", "height", "width")}
    if args.json:
        numbers = {"name": this.name, "hash": this.hash, "architectures": this.size, "latent": clip}
        print_json({**numbers, "operators": operators, "slots": rows})
        return
    size = f"{this.size:,}" if this.size < 10**12 else f"{this.size:.3g}"
    print(f"{this.name} ({this.hash}): {len(rows)} slots, {size} combinations of choices")
    if clip:
        channels, frames, height, width = clip.values()
        print(f"latent: {channels} channels, {frames} frames, {height}x{width}; batch {this.batch}, {this.dtype}")
    if this.backbone is not None:
        print(f"backbone: channels {', '.join(map(str, this.backbone.channels))}")
    for name, options in operators.items():
        told = ", ".join(f"{key} {value}" for key, value in options.items() if key != "kind")
        kind = f" ({options['kind']})" if options["kind"] != name else ""
        print(f"operator {name}{kind}: {told or 'no hyperparameters'}")
    frame = pd.DataFrame(rows).assign(
        shape=[f"C {s[1]}, T {s[2]}, {s[3]}x{s[4]}" if s else "-" for s in (row["shape"] for row in rows)],
        choices=[", ".join(row["choices"]) for row in rows],
    )
    widths = {column: max(map(len, [column, *frame[column].astype(str)])) for column in ("slot", "site", "shape")}
    print()
    for row in [dict(zip(frame.columns, frame.columns)), *frame.to_dict("records")]:
        print("  ".join([*(f"{row[name]:<{width}}" for name, width in widths.items()), row["choices"]]))


def _list(args: argparse.Namespace) -> None:
    from nas.spaces import SearchSpace
    from nas.spaces.load import shipped_spaces

    rows = [
        {"name": name, "slots": len(SearchSpace.load(name).slots), "file": str(path)}
        for name, path in shipped_spaces().items()
    ]
    if args.json:
        print_json(rows)
        return
    for row in rows:
        print(f"{row['name']:<12} {row['slots']:>3} slots  {row['file']}")
