"""The report page of a long run: its size, and the time until a browser has drawn its curves.

python benchmarks/report.py [--rows 100000] [--runs 1] [--rounds 5]

Needs Chromium on the PATH and playwright. The page has only curves; pictures would add their own size.
"""

import argparse
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from alexprep.model.events import from_row
from alexprep.model.report.report import RunView, render


def view(name: str, count: int) -> RunView:
    rng = np.random.default_rng(0)
    facts = {"ranks": 1, "classes": 1000, "parameters": 60_965_224, "multiply_adds": 724_406_816, "device": "none", "settings": {}, "versions": {}}
    rows = [{"event": "start", "step": 0, **facts}]
    loss = 7 * np.exp(-np.arange(count) / count) + rng.normal(0, 0.1, count)
    for i in range(count):
        row = {"event": "step", "step": 10 * (i + 1), "epoch": 1 + i // 1000, "loss": float(loss[i]), "error": float(loss[i] / 8), "lr": 0.01}
        rows.append(row | {"images_per_s": float(rng.normal(3000, 50)), "wait_share": float(rng.random() / 50)})
        if i % 1000 == 999:
            scores = {"views": 1, "count": 50_000, "top1_error": 0.5, "top5_error": 0.3, "loss": float(loss[i]), "train_error": 0.5}
            rows.append({"event": "eval", "step": 10 * (i + 1), "epoch": 1 + i // 1000, **scores})
    return RunView(name, [event for event in map(from_row, rows) if event is not None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    from playwright.sync_api import sync_playwright

    start = time.perf_counter()
    page = render([view(str(number), chosen.rows) for number in range(chosen.runs)])
    made = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "report.html"
        path.write_text(page)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        taken = []
        for _ in range(chosen.rounds):
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            start = time.perf_counter()
            tab.goto(f"file://{path}")
            tab.wait_for_selector(".u-over")
            taken.append(time.perf_counter() - start)
            tab.close()
        version = browser.version
        browser.close()
    print(f"{platform.machine()}, Python {platform.python_version()}, Chromium {version}; {chosen.runs} x {chosen.rows:,} rows")
    spread = f"{statistics.median(taken):.2f} s ({min(taken):.2f} to {max(taken):.2f})"
    print(f"made in {made:.1f} s, {len(page.encode()) / 1e6:.2f} MB; drawn after {spread}")


if __name__ == "__main__":
    main()
