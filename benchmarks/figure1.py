"""Figure 1 of the paper: epochs until a four-layer net on CIFAR-10 reaches a training error of 25 %, with ReLU and with tanh.

python benchmarks/figure1.py ABLATION... [--plot FILE.png]

Reads the output of `alextrain ablate` (docs/results.md has the commands); rows are named activation=A,lr=R. The number of epochs is interpolated
between the mean training errors of the epochs. For each activation, the rate that needs the fewest epochs on average is chosen.
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path

TARGET = 0.25
Curve = list[tuple[int, float]]  # epoch, mean training error


def curve(metrics: Path) -> Curve:
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [(row["epoch"], row["train_error"]) for row in rows if row["event"] == "eval"]


def epochs_to(points: Curve, target: float = TARGET) -> float | None:
    """Return the epoch at which the line through the points (each at the middle of its epoch) reaches the target, or None."""
    before = (-0.5, 0.9)  # chance with ten classes
    for epoch, error in points:
        here = (epoch - 0.5, error)
        if error <= target:
            return before[0] + (before[1] - target) / max(before[1] - error, 1e-12) * (here[0] - before[0])
        before = here
    return None


def read(folder: Path) -> dict[str, dict[str, list[Curve]]]:
    """Return the curves by activation and learning rate, one per seed."""
    found: dict[str, dict[str, list[Curve]]] = defaultdict(lambda: defaultdict(list))
    for metrics in sorted(folder.glob("activation=*/seed-*/metrics.jsonl")):
        parts = dict(part.split("=") for part in metrics.parent.parent.name.split(","))
        found[parts["activation"]][parts["lr"]].append(curve(metrics))
    return found


def table(name: str, found: dict[str, dict[str, list[Curve]]]) -> dict[str, tuple[str, float]]:
    """Print the epochs for every rate; return the best rate of each activation with its epochs."""
    best: dict[str, tuple[str, float]] = {}
    print(f"\n{name}\n{'activation':12}{'lr':>8}{'runs':>6}  epochs to {100 * TARGET:.0f} %")
    for activation, rates in found.items():
        for rate, curves in sorted(rates.items(), key=lambda item: float(item[0])):
            reached = [epochs_to(points) for points in curves]
            known = [value for value in reached if value is not None]
            text = f"{statistics.mean(known):.1f}" + (f" ({min(known):.1f} to {max(known):.1f})" if len(known) > 1 else "") if known else ""
            left = len(reached) - len(known)
            missed = f"{left} not in {max(points[-1][0] for points in curves if points)}" if left else ""
            print(f"{activation:12}{rate:>8}{len(curves):>6}  {', '.join(part for part in (text, missed) if part)}")
            if known and not left and statistics.mean(known) < best.get(activation, ("", float("inf")))[1]:
                best[activation] = (rate, statistics.mean(known))
    if set(best) >= {"relu", "tanh"}:
        print(
            f"tanh (lr {best['tanh'][0]}) needs {best['tanh'][1] / best['relu'][1]:.2f} times the epochs of ReLU (lr {best['relu'][0]}); the paper: 6"
        )
    return best


def plot(path: Path, everything: dict[str, dict[str, dict[str, list[Curve]]]], best: dict[str, dict[str, tuple[str, float]]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(everything), 3.6), layout="constrained")
    for number, (name, found) in enumerate(everything.items(), 1):
        axes = figure.add_subplot(1, len(everything), number)
        for activation, colour, dash in (("relu", "#2f72d6", "-"), ("tanh", "#d2542f", "--")):
            for rate, curves in found.get(activation, {}).items():
                chosen = best[name].get(activation, ("", 0))[0] == rate
                for points in curves:
                    label = f"{activation}, lr {rate}" if chosen and points is curves[0] else None
                    line = {"color": colour, "linestyle": dash, "linewidth": 1.8 if chosen else 0.7, "alpha": 1 if chosen else 0.35}
                    axes.plot([epoch for epoch, _ in points], [100 * error for _, error in points], label=label, **line)
        axes.axhline(100 * TARGET, color="grey", linewidth=0.7)
        axes.set(title=name, xlabel="epochs", ylabel="training error, %", ylim=(15, 75))
        if best[name]:
            axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="ABLATION")
    parser.add_argument("--plot", type=Path)
    chosen = parser.parse_args()
    everything = {folder.name: read(folder) for folder in chosen.folders}
    best = {name: table(name, found) for name, found in everything.items()}
    if chosen.plot:
        plot(chosen.plot, everything, best)


if __name__ == "__main__":
    main()
