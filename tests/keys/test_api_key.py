"""The form of a key: what is issued, what is refused unseen, what a key is called."""

import string
import zlib

from hypothesis import assume, given
from hypothesis import strategies as st

from genserve.domain.api_key import alias_id, check_of, is_mistyped, key_id, new_key

URL_SAFE = string.ascii_letters + string.digits + "-_"
BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase

digests = st.text("0123456789abcdef", min_size=64, max_size=64)
bodies = st.text(URL_SAFE, min_size=43, max_size=43).map(lambda random: "gs_" + random)
issued = bodies.map(lambda body: body + check_of(body))


def test_a_new_key_has_the_documented_form_and_never_comes_twice():
    keys = {new_key() for _ in range(500)}
    assert len(keys) == 500
    for key in keys:
        assert len(key) == 52
        assert key.startswith("gs_")
        assert set(key[3:]) <= set(URL_SAFE)
        assert set(key[-6:]) <= set(BASE62)
        assert not is_mistyped(key)


@given(bodies)
def test_the_check_is_crc32_in_base62(body: str):
    value = 0
    for character in check_of(body):
        value = value * 62 + BASE62.index(character)
    assert value == zlib.crc32(body.encode())


@given(issued, st.integers(3, 51), st.sampled_from(BASE62))
def test_every_single_wrong_character_is_noticed(key: str, place: int, character: str):
    assume(key[place] != character)
    assert is_mistyped(key[:place] + character + key[place + 1 :])


@given(issued, st.integers(3, 44))
def test_two_neighbours_swapped_are_noticed(key: str, place: int):
    assume(key[place] != key[place + 1])
    assert is_mistyped(key[:place] + key[place + 1] + key[place] + key[place + 2 :])


@given(st.text())
def test_a_key_of_another_form_is_never_called_mistyped(key: str):
    assume(not (len(key) == 52 and key.startswith("gs_")))
    assert not is_mistyped(key)


@given(st.text(min_size=8, max_size=80), digests)
def test_an_id_shows_the_ends_of_long_keys_only(key: str, digest: str):
    name = key_id(key, digest)
    if len(key) >= 24:
        assert name == f"{key[:8]}-{key[-4:]}"
        assert len(name) == 13
    else:
        assert name == alias_id(digest) == f"k_{digest[:8]}"


@given(st.text(min_size=24, max_size=80), digests)
def test_an_id_leaves_at_least_half_of_a_key_unknown(key: str, digest: str):
    shown = len(key_id(key, digest)) - len("-")
    assert shown <= len(key) / 2
