"""hf_transfer.models.architecture_names: the structure of a timm model without transformers is that of TimmWrapper."""

from __future__ import annotations

import pytest

from hf_transfer.architectures.lookup import architecture_name, wrap
from hf_transfer.errors import ModelError
from hf_transfer.models.architecture_names import TimmStructure
from hf_transfer.models.loading import load_structure


@pytest.mark.parametrize("name", ["timm:resnet18", "timm:vit_tiny_patch16_224.augreg_in21k", "timm:test_convnext"])
def test_the_structure_is_that_of_timm_wrapper(name: str) -> None:
    """Name, parameters, shapes and layer groups are those of the model that `train` would load."""
    ours, theirs = TimmStructure(name), load_structure(name)
    assert architecture_name(ours) == architecture_name(theirs)
    assert [(n, p.shape) for n, p in ours.named_parameters()] == [(n, p.shape) for n, p in theirs.named_parameters()]
    assert wrap(ours).layer_groups == wrap(theirs).layer_groups


def test_an_unknown_model_is_refused_with_similar_names() -> None:
    """A typing error names what it may have meant."""
    with pytest.raises(ModelError, match="Similar: .*timm:resnet18"):
        TimmStructure("timm:resnet1")
