"""The license of a card: chosen, kept, or the backbone's; none is invented."""

import pytest

from selfmod_hf import SelfModelingTrainingArguments
from selfmod_hf.errors import InputError
from selfmod_hf.hub.license import base_license, chosen_license, license_in
from selfmod_hf.hub.upload import Target

CARD = "---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE\n---\n# a card\n"
FIELDS = {"license": "other", "license_name": "mine", "license_link": "LICENSE"}


@pytest.fixture
def encoder(tmp_path):
    """A pretrained encoder in a folder, its card with it."""
    (tmp_path / "README.md").write_text(CARD)
    return str(tmp_path)


def test_the_users_choice_goes_first(encoder):
    assert chosen_license("apache-2.0", FIELDS, encoder) == {"license": "apache-2.0"}
    assert chosen_license("other", FIELDS, encoder) == FIELDS


def test_then_that_of_the_card_on_the_hub_then_the_backbones(encoder):
    assert chosen_license(None, {"license": "mit"}, encoder) == {"license": "mit"}
    assert chosen_license(None, {}, encoder) == FIELDS


def test_none_is_invented(tmp_path):
    assert chosen_license(None, {}, None) == {}
    assert chosen_license(None, {}, str(tmp_path)) == base_license("someone/unknown") == {}


@pytest.mark.parametrize(
    "card", ["", "# no metadata", "---\nlicense: [\n---\n", "---\n- a list\n---\n", "---\nlicense: 3\n---\n"]
)
def test_a_card_that_names_none(card):
    assert license_in(card) == {}


def test_several_licenses_are_kept():
    assert license_in("---\nlicense:\n- mit\n- apache-2.0\n---\n") == {"license": ["mit", "apache-2.0"]}


@pytest.mark.parametrize("license", ["MIT License", "", "a\nb", "<script>"])
def test_what_is_no_identifier_is_rejected(license, tmp_path):
    with pytest.raises(InputError, match="allowed are the Hub's identifiers"):
        Target("me/net", license=license)
    with pytest.raises(InputError, match="allowed are the Hub's identifiers"):
        SelfModelingTrainingArguments(str(tmp_path), license=license)
