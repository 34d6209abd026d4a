"""What a fit was made from goes with it, and says where the fit may be used."""

import json

import pytest

from pipeline.methods.provenance import Provenance

MADE = Provenance("modelA", "templateA", "data", ("blocks.1.z", "blocks.3.z"), "by hand")


def test_a_record_is_read_back_from_json():
    assert Provenance.parse(json.loads(json.dumps(MADE.record))) == MADE
    assert MADE.record["sites"] == ["blocks.1.z", "blocks.3.z"]
    assert Provenance.parse(Provenance("m").record) == Provenance("m")


def test_every_field_that_differs_is_named_with_both_sides():
    MADE.require("directions", model="modelA", template="templateA")
    message = r"^directions were made on model modelA, this is modelB$"
    with pytest.raises(ValueError, match=message):
        MADE.require("directions", model="modelB", template="templateA")
    message = "model modelA, this is B; template templateA, this is C$"
    with pytest.raises(ValueError, match=message):
        MADE.require("autoencoders", model="B", template="C", dataset="data")


def test_what_is_not_known_is_not_compared():
    MADE.require("directions", model="", template="templateA")
    Provenance("").require("directions", model="modelB", template="templateB")
