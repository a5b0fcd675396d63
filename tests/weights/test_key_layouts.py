import pytest
import torch
from builders import make_transformer, make_vae
from model_files import to_ldm

from op4ksr_core.weights import key_layouts as layouts


def test_round_trip_is_exact(transformer):
    state = transformer.state_dict()
    bfl = layouts.transformer_to_bfl(state)
    assert layouts.is_bfl_transformer(set(bfl)) and not layouts.is_bfl_transformer(set(state))
    back = layouts.transformer_to_diffusers(bfl)
    assert back.keys() == state.keys() and all(torch.equal(back[k], state[k]) for k in state)
    assert not any("transformer_blocks" in key for key in bfl)


def test_agrees_with_diffusers_own_converter():
    """diffusers' converter knows FLUX's width alone: thin tensors of that height exercise it all the same."""
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    width = 3072
    state = layouts.transformer_to_bfl(make_transformer(num_layers=1, num_single_layers=1).state_dict())
    state["single_blocks.0.linear1.weight"] = torch.randn(7 * width, 2)
    state["single_blocks.0.linear1.bias"] = torch.randn(7 * width)
    theirs = convert_flux_transformer_checkpoint_to_diffusers({k: v.clone() for k, v in state.items()})
    ours = layouts.transformer_to_diffusers(state)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_the_given_tensors_are_left_alone(transformer):
    bfl = layouts.transformer_to_bfl(transformer.state_dict())
    copies = {k: v.clone() for k, v in bfl.items()}
    layouts.transformer_to_diffusers(bfl)
    assert all(torch.equal(bfl[k], copies[k]) for k in copies)


def test_prefixes_and_unknown_keys():
    state = {"model.diffusion_model.img_in.weight": torch.ones(1), "model.diffusion_model.extra.weight": torch.ones(1)}
    assert set(layouts.transformer_to_diffusers(state)) == {"x_embedder.weight", "extra.weight"}


@pytest.mark.parametrize("attention", [True, False])
def test_vae_layout_agrees_with_diffusers_own_converter(attention):
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    vae = make_vae(mid_block_add_attention=attention, block_out_channels=[8, 8, 16, 24])
    ldm = to_ldm(vae.state_dict())
    ours = layouts.vae_to_diffusers({f"first_stage_model.{k}": v for k, v in ldm.items()})
    theirs = convert_ldm_vae_checkpoint(dict(ldm), vae.config)
    assert ours.keys() == theirs.keys() == vae.state_dict().keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert all(torch.equal(ours[k], v) for k, v in vae.state_dict().items())
    written = layouts.vae_to_ldm(vae.state_dict())
    assert written.keys() == ldm.keys() and all(torch.equal(written[k], ldm[k]) for k in ldm)
