"""Published weights become files with a card, which forecast as their authors' code does; nothing of them is run."""

import argparse
import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from golden import assert_equals, golden, listed
from rain_fields import X, Y, clock
from safetensors.torch import save_file
from torch import nn

import xnowcast
from xnowcast import models
from xnowcast.cli.commands import main
from xnowcast.models import families, metnet_sequence, nwp_mae, postcast, weights
from xnowcast.models import stvd as stvd_model
from xnowcast.models.published import checkpoint, intern_image
from xnowcast.models.stldm.model import SIZES, Size
from xnowcast.nn.intern_image import INTERN_IMAGE_SIZES, InternImage
from xnowcast.nn.noise import Noise

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "published_weights.md"
TABLE = re.compile(r"(?<=<!-- published weights -->\n\n).*?(?=\n\n<!-- end of published weights -->)", re.DOTALL)


@pytest.fixture
def published(monkeypatch):
    """The golden file of STLDM in 3D; "tiny" is its network."""
    monkeypatch.setitem(SIZES, "tiny", Size(8, 4, 16, 3, 8, (2, 3, 4), 2, 8, 8, 3, 4))
    return golden("stldm_3d")


TINY = {"size": "tiny", "input_frames": 3, "target_frames": 4, "diffusion_steps": 12, "sampling_steps": 4}


@pytest.fixture
def saved(published, tmp_path):
    """Writes something as a checkpoint."""

    def write(content, name="theirs.pt"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


def converted(path, family="stldm-3d-128", **others):
    out = path.with_name("ours.safetensors")
    return out, models.convert(family, path, out, overwrite=True, **TINY | others)


# ---------------------------------------------------------------- STLDM, from a file to a forecast


def reflectivity(pixels, *, minutes=6, metres=4000.0):
    """Pixels (time, y, x) over 255 as dBZ, as HKO-7 has them."""
    rows, columns = pixels.shape[1:]
    coords = {"time": clock(len(pixels), minutes)}
    coords |= {"y": ("y", metres * np.arange(rows)[::-1], Y), "x": ("x", metres * np.arange(columns), X)}
    attrs = {"units": "dBZ", "standard_name": "equivalent_reflectivity_factor"}
    return xr.DataArray(70 * pixels - 10, coords, ("time", "y", "x"), "dbz", attrs)


@pytest.mark.parametrize("sample", [0, 1])
def test_a_forecast_with_converted_weights_is_the_authors_own(published, saved, monkeypatch, sample):
    """Their checkpoint, wrapped as a parallel training does, and what their sampler made of the same noise."""
    path = saved({"model": {f"module.{name}": own for name, own in published.of("weights").items()}, "epoch": 3})
    out, card = converted(path, guidance=0.7)
    drawn = [published.tensors[f"noise/{name}"][sample : sample + 1] for name in ("past_latents", "start")]
    monkeypatch.setattr(Noise, "normal", lambda self, *shape: drawn.pop(0))
    radar = reflectivity(published.tensors["input/frames"][sample, :, 0].numpy())
    forecast = radar.nowcast.forecast(out, members=1, steps=4, zr="hko-7").compute()
    said = (forecast.squeeze().values + 10) / 70
    expected = published.tensors["output/sampling_forecast"][sample, :, 0].numpy()
    rains = expected > 0.173  # 0.1 mm/h with the relation of HKO-7: what is less is told as dry
    assert rains.mean() > 0.3
    np.testing.assert_allclose(said[rains], expected[rains], atol=5e-5)
    assert not drawn and card.contract == {"step": 360.0, "spacing": 4000.0, "crop": 128}


def test_the_card_says_what_they_are_and_what_was_taken(published, saved):
    path = saved({"state_dict": {f"module.{name}": own for name, own in published.of("weights").items()}})
    out, card = converted(path, crop=96)
    assert card == weights.read_card(out)
    assert card.options["scaling"] == "hko-7" and card.options["temporal_norm"] == "time"
    assert card.contract["crop"] == 96 and card.licence.startswith("MIT")
    for words in ("HKO-7", "github.com/sqfoo", "theirs.pt", "entry 'state_dict'", "without the prefix 'module.'"):
        assert words in card.training_data


@pytest.mark.parametrize(
    ("other", "message"),
    [({"minutes": 5}, "made for a step of"), ({"metres": 1000.0}, "made for a grid of 4 km")],
)
def test_other_data_than_those_of_the_training_are_refused(published, saved, other, message):
    out, _ = converted(saved(published.of("weights")))
    with pytest.raises(ValueError, match=message):
        reflectivity(np.zeros((3, 64, 96), "f4"), **other).nowcast.forecast(out, steps=1, members=1)


def test_the_command_writes_the_same(published, saved, capsys):
    path = saved(published.of("weights"))
    out, card = converted(path)
    told = [f"--option={name}={value}" for name, value in TINY.items()]
    words = ["convert", "stldm-3d-128", str(path), str(out), "--step", "6min", "--spacing", "4000", *told]
    assert main(words) == 2 and "--overwrite" not in card.training_data
    assert "exists" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert str(weights.read_card(out)) == capsys.readouterr().out.strip() and weights.read_card(out) == card


FULL = [
    ("stldm-3d-128", "stldm_3d_128_hko7", {}, 64),
    ("stldm-2d-128", "stldm_2d_128", {}, 64),
    ("stldm-3d-256", "stldm_3d_256", {"patch": 32}, 128),
    ("guided-diffusion-256", "guided_diffusion_256x256_uncond", {}, 32),
]


@pytest.mark.parametrize(("family", "keys", "options", "multiple"), FULL)
def test_full_networks_take_all_published_tensors(family, keys, options, multiple):
    """Names and shapes, whose numbers are not here."""
    record = families.find(family)
    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape in listed(keys).items()}
        name, given = next(iter(record.systems.items()))
        model = models.conversion.filled(record, name, {**given, **options}, tensors, "theirs.pt")
    assert model.task.grid_multiple == multiple


# ---------------------------------------------------------------- what wraps the tensors


def shadowed(tensors):
    """As averages are kept over a training, with the network of the moment beside them."""
    now = {f"online_model.{name}": torch.zeros_like(own) for name, own in tensors.items()}
    return {"step": torch.tensor(7)} | now | {f"ema_model.{name}": own for name, own in tensors.items()}


WRAPPED = {
    "as they are": (lambda tensors: tensors, ""),
    "compiled": (lambda tensors: {f"_orig_mod.{n}": t for n, t in tensors.items()}, "without the prefix '_orig_mod.'"),
    "Lightning": (
        lambda tensors: {"epoch": 1, "state_dict": {f"model.{n}": t for n, t in tensors.items()}},
        "entry 'state_dict', without the prefix 'model.'",
    ),
    "averages": (
        lambda tensors: {"model": {n: t + 1 for n, t in tensors.items()}, "ema": shadowed(tensors)},
        "entry 'ema' (beside it 'model'), without the prefix 'ema_model.'",
    ),
    "twice": (lambda tensors: {"state_dict": {"model": tensors}}, "entry 'state_dict', entry 'model'"),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_what_wraps_the_tensors_is_looked_through(tmp_path, how):
    wrap, chosen = WRAPPED[how]
    tensors = {"flow.weight": torch.rand(2), "model.weight": torch.rand(3), "betas": torch.rand(1)}
    torch.save(wrap(tensors), tmp_path / "theirs.pt")
    found = checkpoint.read(tmp_path / "theirs.pt")
    assert found.chosen == chosen and found.tensors.keys() == tensors.keys()
    assert all(found.tensors[name].equal(own) for name, own in tensors.items())


def test_an_entry_and_a_prefix_can_be_named(tmp_path):
    content = {"generator": {"net.a": torch.ones(1), "loss.b": torch.ones(1)}, "model": {"a": torch.zeros(1)}}
    torch.save(content, tmp_path / "theirs.pt")
    found = checkpoint.read(tmp_path / "theirs.pt", entry="generator", prefix="net.")
    assert found.tensors == {"a": torch.ones(1)}
    with pytest.raises(ValueError, match="has no entry 'critic'; it has 'generator', 'model'"):
        checkpoint.read(tmp_path / "theirs.pt", entry="critic")
    with pytest.raises(ValueError, match=r"no names that begin with 'unet\.'"):
        checkpoint.read(tmp_path / "theirs.pt", prefix="unet.")


def test_safetensors_are_read_and_our_own_refused(published, tmp_path, saved):
    save_file(published.of("weights"), tmp_path / "theirs.safetensors")
    out, _ = converted(tmp_path / "theirs.safetensors")
    with pytest.raises(ValueError, match="has a card of xnowcast already"):
        checkpoint.read(out)


# ---------------------------------------------------------------- what is refused


class Bomb:
    """What a pickle can do to whoever loads it."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (Path(self.file),)


def test_a_malicious_checkpoint_is_refused_and_not_run(tmp_path):
    went_off = tmp_path / "went off"
    content = {"state_dict": {"weight": torch.ones(1)}, "extra": Bomb(went_off)}
    torch.save(content, tmp_path / "zip.pt")
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(content, protocol=2))
    for name in ("zip.pt", "old.pt", "plain.pt"):
        with pytest.raises(ValueError, match="code and not weights; nothing of it was run"):
            models.convert("stldm-3d-128", tmp_path / name, tmp_path / "ours.safetensors")
    assert not went_off.exists() and not (tmp_path / "ours.safetensors").exists()
    pickle.loads(pickle.dumps(Bomb(went_off)))
    assert went_off.exists(), "it would have gone off"


@pytest.mark.parametrize(
    ("content", "named"),
    [(nn.Linear(1, 1), "torch.nn.modules.linear.Linear"), (argparse.Namespace(), "argparse.Namespace")],
)
def test_what_is_pickled_is_named(tmp_path, content, named):
    torch.save({"model": content}, tmp_path / "theirs.pt")
    with pytest.raises(ValueError, match=f"holds a pickled {re.escape(named)}, which is code"):
        checkpoint.read(tmp_path / "theirs.pt")


def test_files_that_are_no_checkpoint_are_refused(tmp_path):
    (tmp_path / "words.pt").write_text("no tensors here")
    torch.save({"weight": torch.ones(1000)}, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:2000])
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    torch.save({"epoch": 1}, tmp_path / "none.pt")
    for name, message in {
        "words.pt": "code and not weights|no checkpoint of torch",
        "cut.pt": "no checkpoint of torch, or is cut short",
        "list.pt": "holds a list",
        "none.pt": "has no tensors; it has 'epoch'",
        "absent.pt": "there is no checkpoint",
    }.items():
        with pytest.raises(ValueError, match=message):
            checkpoint.read(tmp_path / name)


def test_tensors_that_fit_nowhere_or_are_missing_are_named(published, saved):
    tensors = published.of("weights")
    with pytest.raises(
        ValueError, match=r"theirs\.pt does not become 'stldm' .* no place for 'diff_unet\.extra\.bias'"
    ):
        converted(saved(tensors | {"diff_unet.extra.bias": torch.ones(1)}))
    fewer = {name: own for name, own in tensors.items() if name != "diff_unet.time_mlp.mlp.1.weight"}
    with pytest.raises(ValueError, match=r"there is none for 'denoiser\.time\.1\.weight'"):
        converted(saved(fewer))
    temporal = next(name for name in tensors if name.endswith(".to_k.weight"))
    with pytest.raises(ValueError, match=r"there is none for 'denoiser\..*\.temporal\.qkv\.weight'"):
        converted(saved({name: own for name, own in tensors.items() if name != temporal}))
    with pytest.raises(ValueError, match=r"input_frames=5.*size mismatch for translator"):
        converted(saved(tensors), input_frames=5)
    with pytest.raises(ValueError, match="weights of the published 3D network"):
        converted(saved(tensors), family="stldm-2d-128")
    broken = tensors | {"diff_unet.time_mlp.mlp.1.weight": tensors["diff_unet.time_mlp.mlp.1.weight"] * torch.nan}
    with pytest.raises(ValueError, match=r"NaN or infinite numbers in 'denoiser\.time\.1\.weight'"):
        converted(saved(broken))


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("stldm-3d", {}, "did you mean 'stldm-3d-\\d+'\\? Known are .*, internimage-t"),
        ("rain", {}, "no family of published weights 'rain': Known are stldm-3d-128, .*, internimage-t"),
        ("ms-rnn", {}, "give system= as one of 'ms-convlstm'"),
        ("ms-rnn", {"system": "db-mim"}, "becomes no 'db-mim'"),
        ("ms-rnn", {"system": "ms-mim"}, "does not tell scaling \\(the data set"),
        ("stldm-3d-256", {}, "does not tell patch \\(the patch_size"),
        ("stldm-3d-256", {"patch": 12}, "patch is 12 cells: choose a multiple of 8"),
        ("stvd", {"highest": 250.0}, r"does not tell coarse_highest \(that of the coarse rain"),
        ("stldm-3d-128", {"guidence": 1}, "did you mean 'guidance'"),
    ],
)
def test_what_is_not_known_or_not_told_is_asked_for(tmp_path, family, options, message):
    with pytest.raises(ValueError, match=message):
        models.convert(family, tmp_path / "theirs.pt", tmp_path / "ours.safetensors", **options)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"step": "6"}, "bare number"),
        ({"spacing": -1.0}, "spacing is -1.0; it must be a number metres above 0"),
        ({"crop": 0}, "crop"),
        ({"ranges": {"rain": (0.0, 1.0)}}, "'stldm' has no fields with ranges"),
    ],
)
def test_a_contract_that_is_none_is_refused(published, saved, told, message):
    with pytest.raises(ValueError, match=message):
        converted(saved(published.of("weights")), **told)


# ---------------------------------------------------------------- the other families


def test_the_prior_of_images_becomes_one_of_radar(tmp_path, monkeypatch):
    found = golden("guided_diffusion")
    shape = {"base": 32, "multipliers": (2, 1), "blocks": 1, "attention": (2,), "head_width": 16}
    monkeypatch.setitem(postcast.SIZES, "tiny", shape)
    torch.save(found.of("weights"), tmp_path / "theirs.pt")
    card = models.convert("guided-diffusion-256", tmp_path / "theirs.pt", tmp_path / "ours.safetensors", size="tiny")
    assert "Three channels became one" in card.description and "variance is left out" in card.description
    assert "commercial" in card.licence and "ImageNet" in card.training_data
    first = weights.load(tmp_path / "ours.safetensors").network.enter.weight
    assert first.equal(found.tensors["weights/input_blocks.0.0.weight"].sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("system", "name", "of_it"),
    [("ms-predrnn", "predrnn", {}), ("trajgru", "trajgru", {"published": True}), ("ms-mk-lstm", "mk_lstm", {})],
)
def test_recurrent_cells_become_one_of_several_systems(tmp_path, system, name, of_it):
    torch.save(golden(f"msrnn_stack_{name}").of("weights"), tmp_path / "theirs.pt")
    told = {"system": system, "size": "tiny", "scaling": "hko-7", "step": "12min", "spacing": 3200.0}
    card = models.convert("ms-rnn", tmp_path / "theirs.pt", tmp_path / "ours.safetensors", **told)
    assert card.system == system and card.options == {"size": "tiny", "scaling": "hko-7"} | of_it
    assert card.contract == {"step": 720.0, "spacing": 3200.0}
    assert weights.load(tmp_path / "ours.safetensors").name == system


def test_stvd_knows_the_ranges_that_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(stvd_model.SIZES, "tiny", stvd_model.Shape(8, (1, 1, 2, 3), 4, 32))
    fields = {"channels": [f"field {n}" for n in range(10)], "static": ["surface_altitude"]}
    ranges = {name: (0.0, 2.0) for names in fields.values() for name in names}
    averages = {"ema": {f"ema_model.{name}": own for name, own in golden("stvd").of("weights").items()}}
    torch.save(averages, tmp_path / "theirs.pt")
    told = ["--option=size=tiny", "--option=highest=250", "--option=coarse_highest=90"]
    told += ["--option=diffusion_steps=20", "--option=sampling_steps=4"]
    told += [f"--option={name}={json.dumps(names)}" for name, names in fields.items()]
    told += [f"--ranges={name}=0,2" for name in ranges]
    assert main(["convert", "stvd", str(tmp_path / "theirs.pt"), str(tmp_path / "ours.safetensors"), *told]) == 0
    model = weights.load(tmp_path / "ours.safetensors")
    assert model.largest.tolist() == [2.0] * 11 and model.transform.highest == 250.0
    assert model.coarse_stretch == model.transform.stretch_to(90.0)
    extremes = {"highest": 250.0, "coarse_highest": 90.0}
    untold = models.convert(
        "stvd", tmp_path / "theirs.pt", tmp_path / "untold.safetensors", **fields, size="tiny", **extremes
    )
    assert untold.contract == {"step": 10800.0, "spacing": 25000.0, "crop": 384}
    assert weights.load(tmp_path / "untold.safetensors").largest.isnan().all()


@pytest.fixture
def encoder(tmp_path, monkeypatch):
    """A checkpoint of InternImage, whose network is the encoder of a tiny NWP-MAE."""
    shape = nwp_mae.Shape(8, 256, (8, 4), 8, (1, 1, 2, 1), (1, 2, 4, 8), 24, 0.0)
    monkeypatch.setitem(nwp_mae.SIZES, "tiny", shape)
    torch.save({"model": golden("internimage_t").of("weights")}, tmp_path / "theirs.pt")
    return tmp_path / "theirs.pt"


@pytest.mark.parametrize("size", ["l", "h"])
def test_a_larger_encoder_of_images_becomes_that_of_nwp_mae(tmp_path, monkeypatch, size):
    known = INTERN_IMAGE_SIZES[size]
    variant = replace(known.variant, normed_blocks=(1,) if size == "h" else ())
    small = replace(known, width=8, depths=(1, 1, 2, 1), groups=(1, 2, 4, 8), variant=variant)
    monkeypatch.setitem(INTERN_IMAGE_SIZES, size, small)
    tensors = golden(f"internimage_{size}").of("weights")
    more = {"clip_projector.norm.bias": torch.zeros(2), "dcnv3_head_x4.0.bias": torch.zeros(2)} if size == "h" else {}
    torch.save({"model": tensors | more}, tmp_path / "theirs.pt")
    out = tmp_path / "ours.safetensors"
    card = models.convert(f"internimage-{size}", tmp_path / "theirs.pt", out, size="tiny")
    assert card.options == {"size": "tiny", "phase": "pretraining", "backbone": size}
    model = weights.load(out)
    assert model.encoder.stages[2].blocks[1].mix[0].weight.equal(tensors["levels.2.blocks.1.mlp.fc1.weight"])
    other = models.build("nwp-mae", size="tiny", phase="classes")
    with pytest.raises(ValueError, match=f"the weights have the backbone {size}, and this model has None"):
        other.begin_from(model)


@torch.inference_mode()
def test_weights_of_komets_metnet_become_a_post_processor(tmp_path, monkeypatch):
    found = golden("komet_metnet")
    monkeypatch.setitem(metnet_sequence.SIZES, "tiny", metnet_sequence.Shape(8))
    torch.save(found.of("weights"), tmp_path / "theirs.pt")
    out = tmp_path / "ours.safetensors"
    names = [f"field {n}" for n in range(5)]
    told = {"size": "tiny", "channels": names, "lead_offsets": [-2, -1, 0]}
    card = models.convert("komet-metnet", tmp_path / "theirs.pt", out, **told)
    assert card.options["batch_statistics"] and "measures the fields" in card.description
    model = weights.load(out)
    model.set_channel_statistics(*torch.tensor([0.0, 1.0, -3.0, 3.0]).expand(5, 4).unbind(1))
    fields = found.tensors["input/fields"]
    said = model.postprocess(fields, torch.ones(2, 1, 50, 65, dtype=torch.bool))
    assert_equals(said, found.tensors["output/classes"].softmax(dim=1), tolerance=5e-5)


@torch.inference_mode()
def test_a_field_that_is_all_channels_is_seen_as_a_grey_image(encoder):
    found = golden("internimage_t")
    networks = [InternImage(n, width=8, depths=(1, 1, 2, 1), groups=(1, 2, 4, 8)).eval() for n in (3, 16)]
    for network in networks:
        network.load_state_dict(intern_image(network, found.of("weights")))
    grey = found.tensors["input/image"][:, :1]
    colours, fields = networks[0](grey.expand(-1, 3, -1, -1)), networks[1](grey.expand(-1, 16, -1, -1))
    for one, other in zip(colours, fields, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_training_that_begins_with_an_encoder_of_images_measures_its_fields(encoder):
    out = encoder.with_name("ours.safetensors")
    before = torch.get_rng_state()
    card = models.convert("internimage-t", encoder, out, size="tiny")
    assert torch.get_rng_state().equal(before)
    assert "Only the encoder is trained" in card.description
    again = models.convert("internimage-t", encoder, out.with_name("again.safetensors"), size="tiny")
    assert again.sha256 == card.sha256
    nwp, observed = xnowcast.datasets.synthetic_nwp(runs=2, leads=2, shape=(32, 32))
    pairs = xnowcast.pair(nwp, observed).compute()
    common = {"size": "tiny", "steps": 1, "crop": 32, "batch_size": 2, "validation_crops": 2, "progress": False}
    model = xnowcast.train("nwp-mae", pairs, start=out, encoder="frozen", variable="observed_rain", **common)
    assert model.scaling.mean.isfinite().all() and model.scaling.std.min() > 0
    theirs = golden("internimage_t").tensors["weights/patch_embed.conv2.weight"]
    assert model.encoder.stem.second.convolution.weight.equal(theirs)


# ---------------------------------------------------------------- the records


@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_record_builds_what_it_says(family):
    record = families.find(family)
    told = {"patch": 16, "scaling": "hko-7", "highest": 256.0, "coarse_highest": 100.0, "factor": 4}
    told |= {"channels": ["rainfall_rate"], "lead_offsets": [-1, 0]}
    for system, options in record.systems.items():
        own = {**options, **{name: told[name] for name in record.asks}}
        with torch.device("meta"):
            model = models.build(system, **own)
        assert isinstance(model.get_submodule(record.part), nn.Module)
        if record.crop:
            assert record.crop % model.task.grid_multiple == 0


def test_the_page_has_the_table_of_the_records():
    """After a change that is meant: ``python tests/models/test_convert.py``."""
    assert TABLE.search(PAGE.read_text())[0] == families.table()


FIDELITY = (PAGE.parents[1] / "understand" / "fidelity.md").read_text()
COUNTED = re.findall(r"^\| [\w-]+ \| `([\w+-]+)`(?:, its (\w+))?[^|]*\|[^|]*\| ([\d,]+) \|", FIDELITY, re.MULTILINE)
FURTHER = {"stvd": {"channels": [f"field {n}" for n in range(10)], "static": ["surface_altitude"]}}


@pytest.mark.parametrize(("name", "part", "parameters"), COUNTED)
def test_the_parameters_on_the_page_are_those_of_the_networks(name, part, parameters):
    with torch.device("meta"):
        model = models.build(name, **FURTHER.get(name, {})).get_submodule(part)
    assert f"{sum(one.numel() for one in model.parameters()):,}" == parameters


def test_the_tests_that_the_page_names_are_there():
    here = [Path(__file__).with_name(f"test_{name}.py").read_text() for name in ("published", "convert")]
    named = set(re.findall(r"`(test_\w+)`", FIDELITY))
    assert len(COUNTED) == 20 and len(named) == 10
    assert {name for name in named if any(f"def {name}(" in text for text in here)} == named


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda _: families.table(), PAGE.read_text()))
