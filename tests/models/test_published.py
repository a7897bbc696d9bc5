"""The networks are the authors' own: with their weights they say what the authors' code says (tests/golden.py)."""

import pytest
import torch
from golden import assert_equals, golden, listed

from xnowcast import models
from xnowcast.models import published
from xnowcast.nn.guided_unet import GuidedUNet

# ---------------------------------------------------------------- PostCast: guided diffusion


def guided_unet(about, **options):
    """The network of a golden file."""
    given = about["constructor_arguments"]
    return GuidedUNet(
        **{"channels": given["in_channels"]} | options,
        base=given["model_channels"],
        multipliers=given["channel_mult"],
        blocks=given["num_res_blocks"],
        attention=given["attention_resolutions"],
        head_width=given["num_head_channels"],
    ).eval()


@pytest.fixture(params=["guided_diffusion", "guided_diffusion_three_levels"])
def guided(request):
    return golden(request.param)


def test_the_prior_is_the_network_of_guided_diffusion(guided):
    network, x = guided_unet(guided.about), guided.tensors["input/x"]
    network.load_state_dict(published.guided_diffusion(network, guided.of("weights")))
    noise = {name: said[:, : x.shape[1]] for name, said in guided.of("output").items()}  # then the variance
    with torch.no_grad():
        assert_equals(network.embedding[0](guided.tensors["input/steps"]), guided.tensors["output/step_features"])
        for step in guided.tensors["input/steps"].tolist():
            assert_equals(network(x, torch.tensor([float(step)])), noise[f"unet_step_{step}"])
        assert_equals(network(x, torch.tensor([37.0, 500.0])), noise["unet_steps_37_and_500"])


def test_weights_of_images_begin_a_prior_of_one_channel():
    guided = golden("guided_diffusion")
    network, frame = guided_unet(guided.about, channels=1), guided.tensors["input/x"][:, :1]
    grey = guided_unet(guided.about)
    grey.load_state_dict(published.guided_diffusion(grey, guided.of("weights")))
    network.load_state_dict(published.guided_diffusion(network, guided.of("weights")))
    step = torch.tensor([37.0])
    with torch.no_grad():
        assert_equals(network(frame, step), grey(frame.expand(-1, 3, -1, -1), step).mean(1, keepdim=True))


def test_the_full_prior_takes_all_tensors_of_the_published_one():
    """Names and shapes of the published network of 256 x 256 cells, whose numbers are not here."""
    with torch.device("meta"):
        network = models.build("postcast").network
        tensors = {name: torch.empty(shape) for name, shape in listed("guided_diffusion_256x256_uncond").items()}
        state = published.guided_diffusion(network, tensors)
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in network.state_dict().items()
    }


def test_weights_of_other_networks_are_refused():
    guided = golden("guided_diffusion")
    network = guided_unet(guided.about)
    with pytest.raises(ValueError, match=r"no place for 'label_emb\.weight'"):
        published.guided_diffusion(network, guided.of("weights") | {"label_emb.weight": torch.zeros(3, 3)})
    with pytest.raises(ValueError, match="no 'input_blocks"):
        published.guided_diffusion(GuidedUNet(base=32, multipliers=(1, 1, 1)), guided.of("weights"))
