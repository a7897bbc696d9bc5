"""Weights come back bit for bit, and anything that is not what was saved is refused with its reason."""

import json
import struct
import sys
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from rain_fields import frames
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import xnowcast
from xnowcast import models, pretrained
from xnowcast.models import cards, weights
from xnowcast.models.base import Task
from xnowcast.models.cards import fields_of
from xnowcast.models.transforms import Decibel


class Blur(nn.Module):
    """One convolution over two frames <b>&amp;</b> a buffer."""

    def __init__(self, width: int = 2, kernels=(3, 5)):
        super().__init__()
        self.task = self.declare(width=width, kernels=kernels)
        self.transform = Decibel()
        self.hidden = nn.Conv2d(2, width, kernels[0], padding=kernels[0] // 2)
        self.out = nn.Conv2d(width, 1, kernels[1], padding=kernels[1] // 2)
        self.register_buffer("scale", torch.tensor(0.1))

    @classmethod
    def declare(cls, width: int = 2, kernels=(3, 5)) -> Task:
        return Task("forecast", input_frames=2, trained=True, max_steps=4)

    def forecast(self, frames, observed, steps, noise=None):
        answer = self.out(torch.relu(self.hidden(frames[:, :, 0] * self.scale)))
        return frames[:, -1:] + answer[:, None].expand(-1, steps, -1, -1, -1)


class Untrained(Blur):
    """The same, for which any weights will do."""

    @classmethod
    def declare(cls, width: int = 2, kernels=(3, 5)) -> Task:
        return Task("forecast", input_frames=2)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr("xnowcast.models.registry.REGISTRY", dict(models.REGISTRY))
    models.register("blur", f"{__name__}:Blur")


OPTIONS = {"width": 3, "kernels": [3, 3]}
ABOUT = {"training_data": "noise", "licence": "CC0-1.0", "scores": {"csi": 0.4321}}


@pytest.fixture
def saved(tmp_path):
    """A model with random weights and the file that holds them."""
    torch.manual_seed(0)
    model = Blur(**OPTIONS)
    weights.save(tmp_path / "blur.safetensors", model, system="blur", options=OPTIONS, **ABOUT)
    return model.eval(), tmp_path / "blur.safetensors"


@pytest.fixture
def radar():
    rain = np.random.default_rng(0).gamma(0.5, 4, (3, 12, 12)).astype("f4")
    return frames(rain).to_dataset()


def altered(path, change):
    """Rewrite a file's (header, tensor data)."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header, data = change(json.loads(content[8 : 8 + size]), bytearray(content[8 + size :]))
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))


def alter_card(path, **changes):
    def change(header, data):
        card = json.loads(header["__metadata__"]["xnowcast"]) | changes
        card = {k: v for k, v in card.items() if v is not None}
        header["__metadata__"]["xnowcast"] = json.dumps(card)
        return header, data

    altered(path, change)


# ---------------------------------------------------------------- what was saved


def test_forecasts_after_save_and_load_are_equal_bit_for_bit(saved, radar):
    model, path = saved
    before = radar.nowcast.forecast(model, steps=3, init_times="all").rr
    for again in (
        radar.nowcast.forecast(str(path), steps=3, init_times="all"),
        radar.nowcast.forecast("blur", weights=str(path), steps=3, init_times="all"),
        radar.nowcast.forecast(weights.load(path), steps=3, init_times="all"),
        radar.chunk(time=1).nowcast.forecast("blur", weights=str(path), steps=3, init_times="all").compute(),
    ):
        np.testing.assert_array_equal(again.rr, before)
    assert (before != radar.rr[-1]).any()


def test_options_may_be_lists(radar):
    models.register("untrained", f"{__name__}:Untrained")
    fc = radar.nowcast.forecast("untrained", steps=1, kernels=[3, 3])
    assert fc.rr.notnull().all() and fc.attrs["nowcast_options"] == "kernels=[3, 3]"


def test_the_forecast_names_its_weights(saved, radar):
    _, path = saved
    fc = radar.nowcast.forecast("blur", weights=str(path), steps=1)
    assert fc.attrs["nowcast_model"] == "blur"
    assert fc.attrs["nowcast_weights_sha256"] == weights.read_card(path).sha256


def test_new_weights_under_an_old_name_are_the_ones_that_run(saved, radar):
    _, path = saved
    before = radar.nowcast.forecast(str(path), steps=1).rr
    torch.manual_seed(1)
    weights.save(path, Blur(), system="blur")
    assert (radar.nowcast.forecast(str(path), steps=1).rr != before).any()


def test_weights_that_change_between_planning_and_computing_are_refused(saved, radar):
    _, path = saved
    planned = radar.chunk().nowcast.forecast(str(path), steps=1)
    torch.manual_seed(2)
    weights.save(path, Blur(**OPTIONS), system="blur", options=OPTIONS)
    with pytest.raises(ValueError, match="was altered"):
        planned.compute()


def test_a_loaded_model_is_in_evaluation_mode_and_has_its_card(saved):
    model, path = saved
    loaded = weights.load(path)
    assert not loaded.training
    assert loaded.card.options == OPTIONS and loaded.card.scores == {"csi": 0.4321}
    assert loaded.card.parameters == sum(p.numel() for p in model.parameters())
    assert weights.load(path, sha256=loaded.card.sha256).card == loaded.card
    with pytest.raises(ValueError, match=r"was altered: its tensors have the hash .* expected 00000"):
        weights.load(path, sha256="0" * 64)


def test_saving_replaces_the_file_whole_and_leaves_nothing_beside_it(saved):
    model, path = saved
    weights.save(path, model, system="blur", options=OPTIONS)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        weights.save(path.with_suffix(".pt"), model, system="blur")


def test_saving_leaves_the_model_as_it_was(saved):
    model, path = saved
    model.train()
    weights.save(path, model, system="blur", options=OPTIONS)
    assert model.training and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_are_hashed_and_kept(tmp_path, dtype):
    path = tmp_path / "half.safetensors"
    weights.save(path, Blur().to(dtype), system="blur")
    with cards.opened(path) as file:
        assert file.get_tensor("hidden.weight").dtype == dtype
    weights.load(path)


# ---------------------------------------------------------------- the card


def test_the_card_is_read_without_reading_a_weight(saved, monkeypatch):
    _, path = saved
    altered(path, lambda header, data: (header, bytes(len(data))))  # the weights are gone, the card is whole
    card = weights.card(str(path))
    assert card.system == "blur" and card.licence == "CC0-1.0"
    assert card.reads.startswith("2 frames of any precipitation field")
    assert "csi 0.432" in str(card) and "width=3" in str(card)


def test_planning_reads_no_weight(saved, radar):
    _, path = saved
    altered(path, lambda header, data: (header, bytes(len(data))))
    planned = radar.chunk().nowcast.forecast(str(path), steps=2)
    with pytest.raises(ValueError, match="was altered"):
        planned.compute()


def test_html_of_a_card_escapes_what_others_wrote():
    evil = "<script>alert('&')</script>"
    card = weights.ModelCard(evil, {evil: evil}, evil, evil, evil, evil, {evil: 1.0})
    html = card._repr_html_()
    assert "<script" not in html and html.count("&lt;script&gt;") >= 7
    assert "&lt;b&gt;&amp;amp;&lt;/b&gt;" in weights.card("blur")._repr_html_()


@pytest.mark.parametrize("name", models.names())
def test_every_system_has_a_card(name):
    card = weights.card(name)
    assert name in (card.system, card.options.get("network")) and card.reads and card.description
    assert name in card._repr_html_() and name in str(card)


def test_a_card_from_a_later_version_is_read(saved):
    _, path = saved
    alter_card(path, colour="green")
    assert weights.load(path).card.system == "blur"


# ---------------------------------------------------------------- the contract


@pytest.fixture
def contracted(tmp_path):
    """Weights of a model that was trained at 5 minutes and 1 km."""
    model = Blur(**OPTIONS)
    model.task = replace(model.task, step=timedelta(minutes=5), spacing=1000.0, crop=96)
    weights.save(tmp_path / "blur.safetensors", model, system="blur", options=OPTIONS)
    return str(tmp_path / "blur.safetensors")


def on_grid(radar, spacing):
    axes = {d: (d, spacing * np.arange(radar.sizes[d]), {"units": "m"}) for d in ("y", "x")}
    return radar.assign_coords(axes)


def test_the_contract_of_the_training_comes_back(contracted):
    task = weights.load(contracted).task
    assert (task.step, task.spacing, task.crop, task.max_steps) == (timedelta(minutes=5), 1000.0, 96, 4)
    assert weights.read_card(contracted).task == task
    assert "a step of 5 minutes" in weights.card(contracted).reads
    assert "at 1 km, learnt from 96 x 96" in weights.card(contracted).reads


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(60, "1 minute,"), (3600, "60 minutes"), ([240, 900], "4 to 15 minutes"), (150, "2.5 minutes")],
)
def test_what_a_file_reads_is_told_in_the_words_of_this_version(contracted, seconds, words):
    alter_card(Path(contracted), contract={"step": seconds}, reads="1 frame, a step of 0:05:00")
    assert f"a step of {words}" in weights.read_card(contracted).reads
    assert "0:05:00" not in str(weights.card(contracted))


def test_a_card_of_a_system_that_is_not_here_is_told_as_it_is(contracted):
    alter_card(Path(contracted), system="elsewhere", reads="something")
    assert weights.read_card(contracted).reads == "something"


def test_weights_from_before_crops_were_told_are_read(tmp_path):
    model = Blur(**OPTIONS)
    card = weights.save(tmp_path / "blur.safetensors", model, system="blur", options=OPTIONS)
    assert "crop" not in card.contract
    assert weights.load(tmp_path / "blur.safetensors").task.crop is None


REDRAWN = [
    ("motionrnn", {}),
    ("crps-rnn", {"cell": "motionrnn"}),
    ("lagrangian", {"network": "ms-motionrnn"}),
    ("stldm", {"frame_wise": True}),
    ("lagrangian", {"network": "stldm", "frame_wise": True}),
]


@pytest.mark.parametrize(("system", "options"), REDRAWN)
def test_weights_of_a_network_that_is_another_by_now_are_refused(system, options, tmp_path):
    path, options = tmp_path / "weights.safetensors", {"size": "tiny", **options}
    weights.save(path, models.build(system, **options), system=system, options=options)
    assert weights.read_card(path).options == options
    alter_card(path, edition=None)  # the first edition did not tell it
    with pytest.raises(ValueError, match=r"where the published one has (none|another): train it again"):
        weights.load(path)


def test_data_that_keep_the_contract_run(contracted, radar):
    for grid in (on_grid(radar, 1000.0), on_grid(radar, 1070.0), radar):  # the last does not tell its spacing
        assert grid.nowcast.forecast(contracted, steps=1).rr.notnull().all()


def test_oblong_cells_are_those_of_their_mean_size(contracted, radar):
    """As training has it, so that a model takes the grid that it was trained on."""
    oblong = on_grid(radar, 1000.0).assign_coords(x=("x", 750.0 * np.arange(radar.sizes["x"]), {"units": "m"}))
    oblong = oblong.assign_coords(y=("y", 1250.0 * np.arange(radar.sizes["y"]), {"units": "m"}))
    assert oblong.nowcast.forecast(contracted, steps=1).rr.notnull().all()


def test_every_mismatch_is_explained(contracted, radar):
    slow = on_grid(radar, 2000.0).assign_coords(time=radar.time[0] + 2 * (radar.time - radar.time[0]))
    message = "(?s)'blur' was made for a step of 5 min, and the data have 10 min.* 1 km, and the data have 2 x 2 km"
    for model in (contracted, weights.load(contracted)):
        with pytest.raises(ValueError, match=message + ".*on_mismatch='warn'"):
            slow.nowcast.forecast(model, steps=1)
        with pytest.warns(UserWarning, match=message):
            assert slow.nowcast.forecast(model, steps=1, on_mismatch="warn").rr.notnull().all()


def test_a_finer_step_names_the_frames_to_take(contracted, radar):
    fine = radar.assign_coords(time=radar.time[0] + (radar.time - radar.time[0]) / 5)
    with pytest.raises(ValueError, match=r"thin them with ds.isel\(time=slice\(None, None, 5\)\)"):
        fine.nowcast.forecast(contracted, steps=1)
    with pytest.raises(ValueError, match="on_mismatch is 'ignore'; it can be 'raise' or 'warn'"):
        fine.nowcast.forecast(contracted, steps=1, on_mismatch="ignore")


def test_a_model_in_memory_is_named_as_its_file_is(contracted, radar):
    loaded = radar.nowcast.forecast(weights.load(contracted), steps=1)
    assert loaded.attrs == radar.nowcast.forecast(contracted, steps=1).attrs


def test_runtime_options_go_with_any_weights(saved, radar, monkeypatch):
    _, path = saved
    monkeypatch.setattr(Blur, "RUNTIME_OPTIONS", ("kernels",), raising=False)
    fc = radar.nowcast.forecast(str(path), steps=1, kernels=[3, 3])
    np.testing.assert_array_equal(fc.rr, radar.nowcast.forecast(str(path), steps=1).rr)
    assert fc.attrs["nowcast_options"] == "kernels=[3, 3]"
    assert weights.load(path, kernels=[3, 3]).card.options == OPTIONS
    with pytest.raises(ValueError, match="fix the model's options: leave out width; free are kernels"):
        radar.nowcast.forecast(str(path), steps=1, width=3)


# ---------------------------------------------------------------- what is refused


def test_a_file_cut_short_is_refused(saved):
    _, path = saved
    content = path.read_bytes()
    for size in (0, 4, 100, len(content) - 1):
        path.write_bytes(content[:size])
        for read in (weights.read_card, weights.load):
            with pytest.raises(ValueError, match="no whole safetensors file"):
                read(path)


def test_one_flipped_bit_in_the_tensors_is_found(saved, radar):
    _, path = saved

    def flip(header, data):
        data[17] ^= 1
        return header, data

    altered(path, flip)
    with pytest.raises(ValueError, match=r"was altered: its tensors have the hash \w{12}, expected \w{12}"):
        weights.load(path)
    with pytest.raises(ValueError, match="was altered"):
        radar.nowcast.forecast(str(path), steps=1)


def test_renamed_tensors_are_found(saved):
    _, path = saved

    def swap(header, data):
        header["hidden.bais"] = header.pop("hidden.bias")
        return header, data

    altered(path, swap)
    with pytest.raises(ValueError, match="was altered"):
        weights.load(path)


def test_a_missing_file_is_named(tmp_path, radar):
    with pytest.raises(ValueError, match=r"there is no weights file .*none\.safetensors"):
        weights.load(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="there is no weights file"):
        radar.nowcast.forecast("blur", weights=str(tmp_path / "none.safetensors"))


def test_foreign_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    text = tmp_path / "text.safetensors"
    text.write_text("these are no weights, whatever the name says")
    with pytest.raises(ValueError, match="no whole safetensors file"):
        weights.load(text)
    pickled = tmp_path / "pickled.safetensors"
    torch.save({"a": torch.zeros(2)}, pickled)
    with pytest.raises(ValueError, match="no whole safetensors file"):
        weights.load(pickled)
    bare = tmp_path / "bare.safetensors"
    save_file({"a": torch.zeros(2)}, bare)
    with pytest.raises(ValueError, match=r"without an xnowcast card: write weights with xnowcast.weights.save"):
        weights.load(bare)


@pytest.mark.parametrize("card", ["not json", "[1]", "{}", '"text"'])
def test_a_card_that_is_none_is_refused(saved, card):
    _, path = saved

    def change(header, data):
        header["__metadata__"]["xnowcast"] = card
        return header, data

    altered(path, change)
    with pytest.raises(ValueError, match="card that cannot be read"):
        weights.read_card(path)


WRONG = [
    None,
    True,
    -1,
    0,
    2.5,
    10**8,
    10**400,
    float("nan"),
    float("inf"),
    "x",
    "\x1b[31m",
    "\ud800",
    [],
    [1, 2, 3],
    {},
]
DEEP = "[" * 100_000 + "]" * 100_000


def with_card(path, text):
    def change(header, data):
        header["__metadata__"]["xnowcast"] = text
        return header, data

    altered(path, change)


@pytest.mark.parametrize(
    "place",
    [
        *(("card", f) for f in weights.ModelCard.__dataclass_fields__),
        *(("contract", f) for f in ("step", "spacing", "crop", "unknown")),
        *(("options", f) for f in ("width", "kernels", "unknown")),
        ("scores", "csi"),
    ],
    ids=".".join,
)
@pytest.mark.parametrize("value", WRONG, ids=lambda v: ascii(v)[:12])
def test_whatever_a_card_says_is_refused_or_makes_the_same_forecast(saved, radar, place, value):
    """A card is text that anybody may have written: no field of it may raise anything else, hang or take all memory."""
    model, path = saved
    before = radar.nowcast.forecast(model, steps=2).rr
    section, name = place
    card = asdict(weights.read_card(path))
    (card if section == "card" else card[section])[name] = value
    with_card(path, json.dumps(card))
    try:
        about = weights.card(path)
        text = f"{about}{about._repr_html_()}"
        after = radar.nowcast.forecast(path, steps=2, on_mismatch="warn").rr
    except ValueError as error:
        text = str(error)
    else:
        xr.testing.assert_equal(after.drop_attrs(), before.drop_attrs())
    assert text.replace("\n", "").isprintable(), "nothing reaches a terminal that steers it"


@pytest.mark.parametrize("name", pretrained.names())
@pytest.mark.parametrize("value", WRONG, ids=lambda v: ascii(v)[:12])
def test_whatever_the_options_of_what_ships_say_is_refused_or_fits(name, value):
    about = weights.card(name)
    for option in models.options(about.system):
        changed = json.dumps(asdict(about) | {"options": about.options | {option: value}})
        try:
            read = weights.ModelCard(**fields_of(changed))
            assert cards.in_words_of_this_version(read).system == about.system
        except ValueError as error:
            assert option in str(error) or "no model" in str(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DEEP, "nested too deeply|characters"),
        ('{"system": ' + '{"a":' * 5000 + "1" + "}" * 5001, "nested too deeply|name of a system"),
        ('{"system": "blur", "parameters": ' + "9" * 5000 + "}", "cannot be read"),
        ('{"system": "blur", "description": "' + "x" * 2**21 + '"}', "characters"),
        ('{"system": "\x00"}', "cannot be read"),
        ("", "cannot be read"),
        ("null", "it is a NoneType"),
        ("{}", "no field 'system'"),
    ],
    ids=lambda text: text[:20],
)
def test_a_card_of_any_form_is_refused_in_words(saved, text, message):
    _, path = saved
    with_card(path, text)
    with pytest.raises(ValueError, match=message):
        weights.read_card(path)


def test_what_others_wrote_is_shown_and_not_obeyed(saved, capsys):
    from xnowcast.cli import main

    _, path = saved
    alter_card(path, description="rain\x1b]0;title\x07\u202e", training_data="a\nsha256 none", licence="\x9b31m")
    for shown in (str(weights.card(path)), weights.card(path)._repr_html_()):
        assert "\\x1b]0;title\\x07\\u202e" in shown and "a sha256 none" in shown and "\\x9b31m" in shown
    main(["models", str(path)])
    assert "\x1b" not in capsys.readouterr().out
    alter_card(path, system="\x1b[2J")
    with pytest.raises(ValueError, match=r"no model '\\x1b\[2J'"):
        weights.load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 7,
        b"\xff" * 8,
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 90_000_000) + b" " * 100,
        struct.pack("<Q", 10) + b"\xff" * 10,
        struct.pack("<Q", 4) + b"[[[[",
        struct.pack("<Q", 2) + b"{}",
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"no whole safetensors file|without an xnowcast card"):
        weights.read_card(path)


def test_names_of_tensors_are_shown_and_not_obeyed(saved):
    model, path = saved
    tensors = {f"\x1b[31m{name}": t for name, t in model.state_dict().items()}
    card = asdict(weights.read_card(path)) | {"sha256": weights._hash(tensors)}
    save_file(tensors, path, metadata={"xnowcast": json.dumps(card)})
    with pytest.raises(ValueError, match="does not fit 'blur'") as error:
        weights.load(path)
    assert "\x1b" not in str(error.value)


def with_tensors(path, change):
    """The same file with other tensors, whose hash the card has."""
    with safe_open(path, "pt") as file:
        tensors = {name: change(name, file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    card = asdict(weights.read_card(path)) | {"sha256": weights._hash(tensors)}
    save_file(tensors, path, metadata={"xnowcast": json.dumps(card)})


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int64, torch.uint8, torch.complex64], ids=str)
def test_numbers_of_another_kind_are_refused(saved, dtype):
    _, path = saved
    with_tensors(path, lambda name, tensor: tensor.to(dtype) if name == "out.weight" else tensor)
    with pytest.raises(ValueError, match=rf"'out.weight' holds {str(dtype)[6:]} where float32 belongs"):
        weights.load(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_floats_of_any_width_are_read(saved, dtype):
    model, path = saved
    with_tensors(path, lambda name, tensor: tensor.to(dtype))
    for name, tensor in weights.load(path).state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["hidden.bias", "scale"])
def test_numbers_that_are_none_are_refused(saved, radar, name, value):
    _, path = saved
    with_tensors(path, lambda n, tensor: torch.full_like(tensor, value) if n == name else tensor)
    with pytest.raises(ValueError, match=f"'{name}' holds NaN or infinite numbers"):
        radar.nowcast.forecast(path, steps=1)


def test_numbers_that_the_network_cannot_hold_are_refused(saved):
    _, path = saved
    with_tensors(
        path, lambda n, tensor: torch.full_like(tensor, 1e300, dtype=torch.float64) if n == "scale" else tensor
    )
    with pytest.raises(ValueError, match="'scale' holds NaN or infinite numbers"):
        weights.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_broken_model_is_not_saved(saved, value):
    model, path = saved
    before = path.read_bytes()
    with torch.no_grad():
        model.out.bias.fill_(value)
    for dtype in (None, "bfloat16"):
        with pytest.raises(ValueError, match=r"NaN or infinite numbers in 'out\.bias'"):
            weights.save(path, model, system="blur", options=OPTIONS, dtype=dtype)
    assert path.read_bytes() == before


@pytest.mark.parametrize("options", [{"kernels": [9_999, 3]}, {"kernels": [99_999, 3]}], ids=str)
def test_a_network_larger_than_its_file_is_not_built(saved, options, monkeypatch):
    """Options of a file may ask for any size; memory is not asked for it."""
    _, path = saved
    alter_card(path, options=OPTIONS | options)
    monkeypatch.setattr(nn.Conv2d, "reset_parameters", lambda self: pytest.fail("it was built"), raising=True)
    with pytest.raises(ValueError, match="larger than the tensors of the file"):
        weights.load(path)


def test_loading_draws_nothing_from_torchs_generator(saved, radar):
    _, path = saved
    torch.manual_seed(3)
    before = torch.get_rng_state()
    weights.load(path)
    radar.nowcast.forecast(path, steps=1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["x" * 5000, "a\x00b.safetensors", "x" * 5000 + ".safetensors", ""])
def test_names_that_no_file_can_have_are_refused(radar, name):
    with pytest.raises(ValueError, match=r"there is no (model|weights file)"):
        radar.nowcast.forecast(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"width": 4, "kernels": [3, 3]}}, "does not fit 'blur' as it is built here: .*size mismatch"),
        ({"options": {"depth": 4}}, "'blur' has no option 'depth'"),
        ({"system": "blurr"}, "no model 'blurr'; did you mean 'blur'"),
        ({"system": "persistence", "options": {}}, "does not fit 'persistence'"),
        ({"sha256": "0" * 64}, "was altered"),
        ({"sha256": None}, "was altered"),
    ],
)
def test_a_card_of_another_network_is_refused(saved, changes, message):
    _, path = saved
    alter_card(path, **changes)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        weights.load(path)


def test_a_system_that_is_trained_needs_weights(radar, saved):
    with pytest.raises(ValueError, match="'blur' needs weights: load the path of a weights file"):
        weights.load("blur")
    with pytest.raises(ValueError, match="'blur' needs weights: give the path of a file with weights="):
        radar.nowcast.forecast("blur")
    with pytest.raises(ValueError, match="holds weights of 'blur', not of 'persistence'"):
        radar.nowcast.forecast("persistence", weights=str(saved[1]))
    with pytest.raises(ValueError, match="fix the model's options: leave out width"):
        radar.nowcast.forecast("blur", weights=str(saved[1]), width=3)
    with pytest.raises(ValueError, match="a model in memory is complete"):
        radar.nowcast.forecast(saved[0], weights=str(saved[1]))


def test_a_card_says_nothing_that_the_forecast_would_not_do(saved, radar):
    with pytest.raises(ValueError, match="'blur' forecasts up to 4 steps; 5 were asked for"):
        radar.nowcast.forecast("blur", weights=str(saved[1]), steps=5)


def test_nothing_is_ever_unpickled(saved, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("torch.load was called"))
    monkeypatch.setattr(sys.modules["pickle"], "load", lambda *a, **k: pytest.fail("pickle.load was called"))
    xnowcast.load(str(saved[1]))


def test_paths_and_run_folders_name_weights_too(saved, radar, tmp_path):
    _, path = saved
    expected = radar.nowcast.forecast(str(path), steps=1)
    assert radar.nowcast.forecast(path, steps=1).identical(expected)
    run = tmp_path / "run"
    run.mkdir()
    path.rename(run / "model.safetensors")
    for name in (run, str(run)):
        np.testing.assert_array_equal(radar.nowcast.forecast(name, steps=1).rr, expected.rr)
        assert xnowcast.card(name) == xnowcast.card(xnowcast.load(name))
    with pytest.raises(ValueError, match="a Blur has no card: give a name"):
        xnowcast.card(Blur())


def test_a_checkpoint_is_not_taken_for_weights(saved):
    from safetensors.torch import save_file

    checkpoint = saved[1].parent / "checkpoint.safetensors"
    save_file({"a": torch.zeros(2)}, checkpoint)
    with pytest.raises(ValueError, match=r"checkpoint of a run, .*: the weights are model\.safetensors"):
        xnowcast.load(checkpoint)


def test_others_may_read_the_weights(saved):
    plain = saved[1].parent / "plain"
    plain.touch()
    assert saved[1].stat().st_mode == plain.stat().st_mode
