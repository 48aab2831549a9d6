"""Places: this checkout, and real images that may be absent."""

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SHARED = ROOT.parent / "shared" / "data"
