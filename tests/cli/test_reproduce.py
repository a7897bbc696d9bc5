"""The commands of the page on reproducing the papers build the networks that it says."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from xnowcast import models
from xnowcast.archive.config import run_score
from xnowcast.training.settings import read_config

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "howto" / "reproduce.md").read_text()
CONSOLE = "".join(re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
TRAININGS = [line for line in CONSOLE.splitlines() if line.startswith("xnowcast train")]
PARAMETERS = {"db-convlstm": 500_114, "ms-convlstm": 250_057, "db-preciplstm": 1_986_194, "stldm": 78_883_105}


@pytest.mark.parametrize("command", TRAININGS)
def test_a_training_command_builds_the_network_of_the_paper(command):
    config_file, *changes = [word for word in shlex.split(command)[2:] if word != "--set"]
    config = read_config(ROOT / config_file, changes)
    with torch.device("meta"):
        model = models.build(config.model, **config.options)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[config.model]
    assert config.training.batch_size == 4


def test_every_network_of_the_commands_is_tested():
    assert len(TRAININGS) >= 4


def test_the_configuration_of_the_scores_lacks_nothing_but_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    Path("score.toml").write_text(block)
    with pytest.raises((ValueError, OSError), match=r"data/hko-7/test-12min\.zarr"):
        run_score("score.toml")
