"""params.yaml in any form: a list that is no mapping is one line."""

import pytest

from pipeline.config.listing import read_params


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("studies: [tiny]", "`studies` is no mapping of names: `studies: {refusal: ...}`"),
        ("studies: {}\ncollects: [tiny]", "`collects` is no mapping of names"),
        ("studies: {}\ncollects: tiny", "`collects` is no mapping of names"),
        ("studies: {}\nfits: {tiny-direction: direction}", "fits.tiny-direction is 'direction'; v"),
        ("studies: {a: 3}", "studies.a is 3; valid: a mapping, such as {}"),
        ("studies: {a: ", "is no valid YAML: "),
        ("[studies]", "is no mapping of lists"),
        ("", "is no mapping of lists"),
    ],
)
def test_lists_of_other_forms_are_one_line(tmp_path, text, message):
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(ValueError) as caught:
        read_params(file)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_lists_without_entries_are_read(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("studies: {a: {reads: x}, b: }\ncollects:\n")
    assert read_params(file) == {"studies": {"a": {"reads": "x"}, "b": None}, "collects": None}
