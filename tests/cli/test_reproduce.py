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
PARAMETERS = {
    "db-convlstm": 500_114,
    "ms-convlstm": 250_057,
    "db-preciplstm": 1_986_194,
    "ms-mk-lstm": 7_576_897,
    "stldm": 78_883_105,
    "lpt-qpn": 4_636_747,
    "earthformer": 8_659_677,
    "postcast": 552_797_953,
    "tau": 50_262_209,
    "stvd": 57_615_106,
    "diffcast": 49_361_625,
    "cascast": 401_554_947,
    "phydnet": 3_091_732,
    "swin-ir": 12_043_517,
}
"""Of some of the networks."""

PLAIN = {"augment": False, "rain_preference": 0.0, "min_coverage": 0.0, "ema": 0.0, "accumulate": 1, "warmup": 0}
"""What no paper has, unless it is named below."""

DB_RNN = PLAIN | {
    **{"steps": 200_000, "batch_size": 4, "crop": 160, "optimizer": "adam", "betas": (0.9, 0.999)},
    **{"learning_rate": 3e-4, "schedule": "constant", "weight_decay": 0.0, "clip": None},
}
"""Ma et al. (2024), section IV. The paper counts epochs: the steps are ours."""

MS_LSTM = DB_RNN | {"crop": 128}
"""Ma et al. (2023), the code."""

STLDM = PLAIN | {
    **{"steps": 200_000, "batch_size": 4, "crop": 128, "optimizer": "adamw", "weight_decay": 0.01, "clip": 1.0},
    **{"learning_rate": 1e-4, "warmup": 2000, "warmup_from": 0.1, "schedule": "cosine", "min_learning_rate": 1e-6},
}
"""Foo et al. (2026), appendix, and its code."""

LPT_QPN = PLAIN | {"optimizer": "adamw", "schedule": "cosine", "min_learning_rate": 1e-9, "clip": None}
"""Li et al. (2023), its code; the size of the batch, the rate and the length are not told there, and ours."""
EARTHFORMER = PLAIN | {
    **{"steps": 111_600, "batch_size": 32, "crop": 384, "optimizer": "adamw", "weight_decay": 0.0, "clip": 1.0},
    **{"learning_rate": 1e-3, "warmup": 22_320, "warmup_from": 0.0, "min_learning_rate": 1e-6, "patience": 20},
}
"""Gao et al. (2022), section 4, and its code: 100 epochs."""

POSTCAST = PLAIN | {
    **{"batch_size": 16, "accumulate": 2, "crop": 256, "optimizer": "adamw", "betas": (0.9, 0.999)},
    **{"learning_rate": 2e-4, "schedule": "cosine", "min_learning_rate": 0.0, "clip": None},
}
"""Gong et al. (2025), appendix; the size of the batch and the length are not printed, and ours."""

STVD = PLAIN | {
    **{"steps": 1_000_000, "batch_size": 1, "crop": 384, "optimizer": "adam", "betas": (0.9, 0.99), "clip": 1.0},
    **{"learning_rate": 1e-4, "schedule": "cosine", "min_learning_rate": 5e-7, "ema": 0.995},
}
"""Srivastava et al. (2024), appendix, and its code."""

SWIN_IR = PLAIN | {
    **{"steps": 500_000, "batch_size": 32, "crop": 384, "optimizer": "adam", "betas": (0.9, 0.999), "ema": 0.999},
    **{"learning_rate": 2e-4, "schedule": "constant", "halve_at": (250_000, 400_000, 450_000, 475_000)},
}
"""Liang et al. (2021), section 4.1 and what is known of its code: 48 coarse cells are 384 fine ones."""

SWIN_IR_DIFF = STVD | {"batch_size": 5}
"""Srivastava et al. (2024) name none: those of STVD, for single frames."""

NWP_MAE_ENCODER = PLAIN | {
    **{"steps": 150_000, "batch_size": 64, "optimizer": "adamw", "betas": (0.9, 0.95), "weight_decay": 0.05},
    **{"learning_rate": 1.6e-3, "schedule": "cosine", "warmup": 18_000, "clip": 0.02},
}
NWP_MAE = PLAIN | {
    **{"steps": 35_000, "batch_size": 32, "optimizer": "adamw", "betas": (0.9, 0.999), "weight_decay": 0.0},
    **{"learning_rate": 1e-4, "schedule": "constant", "clip": None, "rain_preference": 0.99},
}
"""An et al. (2023), table of settings; it trains the classes on samples with rain alone."""

SIMVP = PLAIN | {
    **{"steps": 125_000, "batch_size": 16, "crop": 128, "optimizer": "adam", "betas": (0.9, 0.999), "clip": None},
    **{"learning_rate": 1e-3, "schedule": "onecycle", "weight_decay": 0.0},
}
"""Gao et al. (2022), Tan et al. (2022, 2023) and their code, for Moving MNIST; the crop is ours."""

STVD_OPTIONS = {"factor": 8, "frames": 5, "attention_kernel": 3, "eps": 3.6e-11, "diffusion_steps": 1400}
STVD_OPTIONS |= {"published": False, "whole_map": False, "sampling_steps": 30}
"""Srivastava et al. (2024), section 3.2 and appendix A.1; eps is that of the code, 1e-14 kg m-2 s-1."""
DIFFCAST = PLAIN | {
    **{"steps": 200_000, "batch_size": 6, "crop": 128, "optimizer": "adamw", "betas": (0.9, 0.95), "weight_decay": 0.0},
    **{"learning_rate": 1e-4, "warmup": 1000, "schedule": "cosine", "clip": 1.0, "ema": 0.9974},
}
"""Yu et al. (2024), and the arguments of its code, also for PhyDNet alone."""

CASCAST_AUTOENCODER = PLAIN | {
    **{"steps": 200_000, "batch_size": 8, "crop": 384, "optimizer": "adamw", "betas": (0.9, 0.999), "clip": None},
    **{"learning_rate": 1e-4, "schedule": "cosine", "min_learning_rate": 1e-6, "warmup": 20_000, "weight_decay": 1e-5},
}
CASCAST = PLAIN | {
    **{"steps": 100_000, "batch_size": 8, "crop": 384, "optimizer": "adamw", "betas": (0.9, 0.95), "clip": None},
    **{"learning_rate": 5e-4, "schedule": "cosine", "min_learning_rate": 1e-5, "warmup": 10_000},
}
"""Gong et al. (2024), and its code."""

PARTS = {"nwp-mae": ("phase", "classes"), "cascast": ("strategy", "diffusion")}
"""Systems that are trained in parts: the option that says which, and its default."""

PAPERS = {
    "db-": DB_RNN,
    "ms-convlstm": DB_RNN,
    "ms-mk-lstm": MS_LSTM,
    "stldm": STLDM,
    "lpt-qpn": LPT_QPN,
    "earthformer": EARTHFORMER,
    "postcast": POSTCAST,
    "stvd": STVD,
    "simvp": SIMVP,
    "tau": SIMVP,
    "diffcast": DIFFCAST,
    "phydnet": DIFFCAST,
    "cascast autoencoder": CASCAST_AUTOENCODER,
    "cascast diffusion": CASCAST,
    "swin-ir": SWIN_IR,
    "swin-ir-diff": SWIN_IR_DIFF,
    "nwp-mae pretraining": NWP_MAE_ENCODER,
    "nwp-mae classes": NWP_MAE,
}


def settings_of_the_paper(config):
    option, default = PARTS.get(config.model, ("", ""))
    name = f"{config.model} {config.options.get(option, default)}"
    return PAPERS[max((start for start in PAPERS if name.startswith(start)), key=len)]


def config_of(command):
    config_file, *changes = [word for word in shlex.split(command)[2:] if word != "--set"]
    return read_config(ROOT / config_file, changes)


@pytest.mark.parametrize("command", TRAININGS)
def test_a_training_command_has_the_settings_of_its_paper(command):
    config = config_of(command)
    expected = settings_of_the_paper(config)
    assert {name: getattr(config.training, name) for name in expected} == expected


@pytest.mark.parametrize("command", TRAININGS)
def test_a_training_command_builds_the_network_of_the_paper(command):
    config = config_of(command)
    with torch.device("meta"):
        model = models.build(config.model, **config.options)
    expected = PARAMETERS.get(config.model)
    assert expected is None or sum(p.numel() for p in model.parameters()) == expected


def test_the_command_of_stvd_has_the_options_of_its_paper():
    (command,) = (line for line in TRAININGS if "configs/stvd.toml" in line)
    config = config_of(command)
    with torch.device("meta"):
        options = models.build(config.model, **config.options).options
    assert {name: getattr(options, name) for name in STVD_OPTIONS} == STVD_OPTIONS
    assert options.coarse_highest is not None and options.coarse_highest < options.highest


@pytest.mark.parametrize(
    ("data_set", "low", "high"), [("hko-7", -10.0, 60.0), ("dwd-12", -10.0, 60.0), ("meteonet", 0.0, 70.0)]
)
def test_configurations_scale_reflectivity_as_the_data_set_does(data_set, low, high):
    config = read_config(ROOT / "configs" / f"{data_set}.toml")
    scale = models.build(config.model, size="tiny", **config.options).transform
    assert (scale.low, scale.high) == (low, high)


def test_every_network_of_the_commands_is_tested():
    assert {config_of(command).model for command in TRAININGS} >= {*PARAMETERS, "stvd", "nwp-mae", "simvp"}


def test_the_configuration_of_the_scores_lacks_nothing_but_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    Path("score.toml").write_text(block)
    with pytest.raises((ValueError, OSError), match=r"data/hko-7/test-12min\.zarr"):
        run_score("score.toml")
