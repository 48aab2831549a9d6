"""All commands: help, versions, and the three lines of the README."""

import re
import subprocess
import sys

import click
import pytest
from alexprep.cli.alexprep import COMMANDS as PREP
from alexprep.cli.alexprep import main as prep
from alexprep.cli.alextrain import COMMANDS as TRAIN
from alexprep.cli.alextrain import main as train

from ..support.commands import called, command
from ..support.images import make_images


@pytest.mark.process
@pytest.mark.parametrize("name", ["alexprep", "alextrain"])
def test_help_answers_at_once_and_imports_nothing_heavy(name):
    module = {"alexprep": "alexprep.cli.alexprep", "alextrain": "alexprep.cli.alextrain"}[name]
    heavy = {"torch", "nvidia", "pyarrow", "numpy", "cv2", "PIL", "tqdm", "matplotlib"}
    code = f"import sys\nfrom {module} import main\ntry: main(['--help'])\nexcept SystemExit: print('heavy:', sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert "Usage:" in run.stdout
    assert run.stdout.endswith("heavy: []\n")


@pytest.mark.parametrize(("name", "group"), [("alexprep", prep), ("alextrain", train)])
def test_every_command_has_help(name, group):
    for word in group.list_commands(None):
        sub = group.get_command(None, word)
        assert sub.name == word
        for parameter in sub.params:
            if not isinstance(parameter, click.Argument):  # a sentence that begins with a noun, and the default in brackets
                assert re.match(r"[A-Z][^.]*\.( .*\.)?(  \[default: .*\])?$|[A-Z].*\.(  \[default: .*\])?$", parameter.help), (word, parameter.name)
                assert not parameter.help.startswith(("Of ", "At ", "By ", "How ", "Do ", "Only the ")), (word, parameter.name)


@pytest.mark.parametrize(("program", "group", "table"), [("alexprep", prep, PREP), ("alextrain", train, TRAIN)], ids=["alexprep", "alextrain"])
def test_the_list_of_commands_has_the_first_line_of_each_help_whole(program, group, table):
    """The modules of commands are not imported for it, so the lines stand in a table, too."""
    said = called(program, "--help").stdout
    for word in group.list_commands(None):
        line = group.get_command(None, word).help.splitlines()[0]
        assert table[word][2] == line
        assert re.search(rf"^  {word} +{re.escape(line)}$", said, re.MULTILINE), line


@pytest.mark.process
def test_the_three_lines_work_as_they_stand(tmp_path):
    """In a folder with imagenet/: shards/, shards/stats.json, runs/1/."""
    make_images(tmp_path / "imagenet", {"train/a": 12, "train/b": 12, "val/a": 4, "val/b": 4})
    first = command("alexprep", "shard", "--src", "imagenet/", cwd=tmp_path)
    second = command("alexprep", "stats", "--pca", cwd=tmp_path)
    third = command("alextrain", "run", "--gpus", "2", "--steps", "1", "--batch-size", "4", "--width", "0.1", cwd=tmp_path)

    assert [run.returncode for run in (first, second, third)] == [0, 0, 0], third.stderr
    assert (tmp_path / "shards/stats.json").is_file()
    assert (tmp_path / "runs/1/report.html").is_file()


def test_the_version_is_the_package_s():
    assert "0.1.0" in called("alexprep", "--version").stdout
