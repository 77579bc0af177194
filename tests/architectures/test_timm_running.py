"""The smallest model of each of timm's families, run and trained: order of execution, selection, one step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import hf_transfer as ht
from hf_transfer.architectures.layer_groups import LayerGroup
from hf_transfer.architectures.wrapper import ModelWrapper
from hf_transfer.phases.freezing import check_unchanged, frozen_tensors
from hf_transfer.utils.hashing import digests
from tests.helpers import timm_zoo


@dataclass(frozen=True)
class Member:
    """A model, the smallest images that it takes, and options that make it smaller."""

    name: str
    size: int = 32
    options: dict[str, Any] = field(default_factory=dict)


_SMALL_VIT = {"depth": 3, "embed_dim": 48, "num_heads": 3}

# A family is a module of timm.models; some have a second class, under a name of its own.
MEMBERS: dict[str, Member] = {
    "beit": Member("beit_base_patch16_224", options=_SMALL_VIT),
    "byoanet": Member("halonet_h1", 256),
    "byobnet": Member("test_byobnet"),
    "cait": Member("cait_xxs24_224", options={"depth": 3}),
    "coat": Member("coat_tiny"),
    "convit": Member("convit_tiny"),
    "convmixer": Member("convmixer_768_32"),
    "convnext": Member("test_convnext"),
    "cpubone": Member("cpubone_nano"),
    "crossvit": Member("crossvit_tiny_240", options={"img_size": 240}),
    "csatv2": Member("csatv2", 64),
    "cspnet": Member("cs3darknet_focus_s"),
    "cspnext": Member("cspnext_tiny"),
    "davit": Member("davit_tiny", options={"depths": (1, 1, 2, 1)}),
    "deepseek_vit": Member("deepseek_vit_412m", 112, _SMALL_VIT),
    "deit": Member("deit_tiny_distilled_patch16_224", options=_SMALL_VIT),
    "densenet": Member("densenet121"),
    "dla": Member("dla46x_c"),
    "dpn": Member("dpn48b"),
    "edgenext": Member("edgenext_xx_small"),
    "efficientformer": Member("efficientformer_l1", 224),
    "efficientformer_v2": Member("efficientformerv2_s0", 64),
    "efficientnet": Member("test_efficientnet"),
    "efficientvim": Member("efficientvim_m1"),
    "efficientvim distilled": Member("efficientvim_m1_dist"),
    "efficientvit_mit": Member("efficientvit_b0"),
    "efficientvit_mit large": Member("efficientvit_l1", options={"depths": (1, 1, 1, 1, 1)}),
    "efficientvit_msra": Member("efficientvit_m0", 128),
    "eva": Member("vit_tiny_patch16_dinov3_qkvb", options=_SMALL_VIT),
    "fasternet": Member("fasternet_t0"),
    "fastvit": Member("fastvit_t8"),
    "focalnet": Member("focalnet_tiny_srf"),
    "gcvit": Member("gcvit_xxtiny"),
    "gemma4_vit": Member("gemma4_vit_167m", 48, _SMALL_VIT),
    "ghostnet": Member("ghostnet_050"),
    "hardcorenas": Member("hardcorenas_b"),
    "hgnet": Member("hgnetv2_b0"),
    "hiera": Member("hiera_tiny_224", options={"embed_dim": 24}),
    "hieradet_sam2": Member("sam2_hiera_tiny", options={"embed_dim": 24}),
    "hrnet": Member("hrnet_w18_small"),
    "iformer": Member("iformer_t", 64),
    "inception_next": Member("inception_next_atto"),
    "inception_resnet_v2": Member("inception_resnet_v2", 96),
    "inception_v3": Member("inception_v3", 96),
    "inception_v4": Member("inception_v4", 96),
    "lcnetv2": Member("lcnetv2_small"),
    "levit": Member("levit_256d", 64),
    "levit distilled": Member("levit_128s", 64),
    "lowformer": Member("lowformer_b0"),
    "mambaout": Member("test_mambaout"),
    "maxxvit": Member("test_coatnet"),
    "metaformer": Member("poolformerv2_s12"),
    "mlp_mixer": Member("gmlp_ti16_224"),
    "mobilenetv3": Member("mobilenetv3_small_050"),
    "mobilenetv5": Member("mobilenetv5_base", options={"channel_multiplier": 0.125}),
    "mobilevit": Member("mobilevit_xxs", 64),
    "mvitv2": Member("mvitv2_tiny"),
    "naflexvit": Member("naflexvit_base_patch16_parfac_gap", options=_SMALL_VIT),
    "nasnet": Member("nasnetalarge", options={"stem_size": 32, "num_features": 1056}),
    "nest": Member("nest_tiny"),
    "nextvit": Member("nextvit_small"),
    "nfnet": Member("test_nfnet"),
    "pit": Member("pit_ti_224"),
    "pnasnet": Member("pnasnet5large"),
    "pvt_v2": Member("pvt_v2_b0"),
    "qwen3_vit": Member("qwen3_vit_88m", options=_SMALL_VIT),
    "rdnet": Member("rdnet_tiny"),
    "regnet": Member("regnetx_002"),
    "repghost": Member("repghostnet_050"),
    "repvit": Member("repvit_m1"),
    "res2net": Member("res2next50"),
    "resnest": Member("resnest14d"),
    "resnet": Member("test_resnet"),
    "resnetv2": Member("resnetv2_18"),
    "rexnet": Member("rexnet_100"),
    "selecsls": Member("selecsls42"),
    "senet": Member("legacy_seresnet18"),
    "sequencer": Member("sequencer2d_s", options={"layers": (1, 1, 2, 1)}),
    "shvit": Member("shvit_s1"),
    "sknet": Member("skresnet18"),
    "starnet": Member("starnet_s050"),
    "swiftformer": Member("swiftformer_xs"),
    "swin_transformer": Member("swin_tiny_patch4_window7_224", options={"embed_dim": 24}),
    "swin_transformer_v2": Member("swinv2_tiny_window16_256", 64, options={"embed_dim": 24}),
    "swin_transformer_v2_cr": Member("swinv2_cr_tiny_224", 64, options={"embed_dim": 24}),
    "tiny_vit": Member("tiny_vit_5m_224"),
    "tnt": Member("tnt_s_legacy_patch16_224", options={"depth": 3}),
    "tresnet": Member("tresnet_m"),
    "twins": Member("twins_svt_small", options={"depths": (1, 1, 2, 1)}),
    "vgg": Member("vgg11", options={"mlp_ratio": 0.02}),
    "visformer": Member("visformer_tiny"),
    "vision_transformer": Member("test_vit"),
    "vision_transformer_hybrid": Member("vit_tiny_r_s16_p8_224"),
    "vision_transformer_relpos": Member("test_vit_relpos"),
    "vision_transformer_sam": Member("samvit_base_patch16_224", options={**_SMALL_VIT, "global_attn_indexes": (2,)}),
    "vitamin": Member("vitamin_small_224"),
    "volo": Member("volo_d1_224"),
    "vovnet": Member("ese_vovnet19b_slim_dw"),
    "xception": Member("legacy_xception"),
    "xception_aligned": Member("xception41p"),
    "xcit": Member("xcit_nano_12_p8_224", options={"depth": 3}),
}
_LABELS = 3


def test_every_family_has_a_member() -> None:
    """A family that a new timm brings is missed here; encoders without a classifier have nothing to train for."""
    chosen = {
        family: {m.name for key, m in MEMBERS.items() if key.split()[0] == family} for family in timm_zoo.families()
    }
    assert not [family for family, names in timm_zoo.families().items() if not chosen[family] & set(names)]


@pytest.mark.slow
@pytest.mark.parametrize("family", MEMBERS)
def test_a_member_runs_and_trains_as_its_groups_say(family: str) -> None:
    """Groups follow the forward pass, selectors pick what they say, a step moves that alone, wrap changes nothing."""
    member = MEMBERS[family]
    model = _build(member)
    image = torch.randn(2, 3, member.size, member.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.eval()(image)
    before = _traits(model)
    wrapper = ht.wrap(model, strict=True)
    assert _traits(model) == before
    groups = wrapper.layer_groups
    with timm_zoo.ParameterUses(model) as uses, torch.no_grad():
        assert torch.equal(model(image), expected)
    assert not timm_zoo.order_faults(groups, uses.ranks)
    middle = _middle_block(groups)
    _check_selection(wrapper, middle)
    _check_one_step(model, image, groups[middle.index :])


def _build(member: Member) -> nn.Module:
    """With weights that none of timm's initial values, such as a norm's weight of zero, cuts off from the gradient."""
    torch.manual_seed(0)
    options = {"pretrained": False, "num_classes": _LABELS, "img_size": member.size, **member.options}
    try:
        model = timm.create_model(member.name, **options)
    except TypeError:  # most convolutional networks take any size and do not ask for it
        model = timm.create_model(member.name, **{key: options[key] for key in options if key != "img_size"})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model


def _traits(model: nn.Module) -> dict[str, Any]:
    return {
        "class": type(model),
        "state": {name: (tensor.data_ptr(), tensor._version) for name, tensor in model.state_dict().items()},
        "parameters": {name: (id(p), p.requires_grad) for name, p in model.named_parameters()},
        "modules": {name: (id(m), m.training, sorted(vars(m))) for name, m in model.named_modules()},
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
        "random": torch.get_rng_state().tolist(),
    }


def _middle_block(groups: tuple[LayerGroup, ...]) -> LayerGroup:
    blocks = [group for group in groups if group.role == "block"]
    return blocks[len(blocks) // 2]


def _check_selection(wrapper: ModelWrapper, middle: LayerGroup) -> None:
    """`last:1` is the group before the head, and the head; `from:` is a group and all behind it."""
    groups = wrapper.layer_groups
    assert groups[-1] is wrapper.head
    assert ht.select(wrapper.model, "last:1") == groups[-2:]
    assert ht.select(wrapper.model, f"from:{middle.name}") == groups[middle.index :]


def _check_one_step(model: nn.Module, image: torch.Tensor, chosen: tuple[LayerGroup, ...]) -> None:
    """Chosen parameters get a gradient and move by it; all others, and their modules' buffers, stay as they are."""
    phase = ht.Phase("middle", train=f"from:{chosen[0].name}", learning_rate=1e-3)
    with ht.frozen(model, phase) as state:
        assert state.trained == {name for group in chosen for name in group.parameter_names}
        frozen = digests(frozen_tensors(model, state))
        # A tiny epsilon: a step moves also what has a tiny gradient.
        optimizer = torch.optim.AdamW(ht.param_groups(model, phase, weight_decay=0.0), eps=1e-18)
        model.train()
        cross_entropy(model(image), torch.tensor([0, 1])).backward()
        parameters = dict(model.named_parameters())
        assert not [name for name, p in parameters.items() if (p.grad is None) == (name in state.trained)]
        old = {name: parameters[name].detach().clone() for name in state.trained}
        optimizer.step()
        check_unchanged(frozen, digests(frozen_tensors(model, state)), phase.name)
    still = [name for name, value in old.items() if torch.equal(value, parameters[name])]
    assert not [name for name in still if parameters[name].grad.count_nonzero()]
    assert len(still) <= len(old) // 10, still
