"""What a run is built of."""

import subprocess
import sys

import pytest

from ..support.runs import SMALL

pytestmark = pytest.mark.process


def test_a_run_does_not_import_torch_s_compiler(data, tmp_path):
    """Two seconds of every start of every rank."""
    code = "import sys; from alexprep.cli.alextrain import main; main(sys.argv[1:], standalone_mode=False); print('torch._dynamo' in sys.modules)"
    arguments = ["run", data, *SMALL, "--steps", 1, "--out", tmp_path / "run"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False)

    assert done.stdout.splitlines()[-1] == "False", done.stderr
