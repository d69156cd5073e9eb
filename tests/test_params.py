"""Tests of saqlib.params: each way to get a section wrong is one clear sentence that names the place."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from dvc.utils.serialize import load_yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from saqlib import params, paths
from saqlib.errors import shown
from saqlib.params import ParamsError
from tests.parameters import BAD_NUMBERS, RAW, refusal


@dataclass(frozen=True)
class Inner:
    share: float


@dataclass(frozen=True)
class Outer:
    """A section with a field of each type that params.yaml has."""

    flag: bool
    count: int
    rate: float
    name: str
    widths: tuple[int, ...]
    epochs: dict[str, int]
    inner: Inner
    several: tuple[Inner, ...]

    def __post_init__(self):
        params.at_least("outer", self, 1, "count")
        params.at_least("outer", self, 0, "rate")


GOOD = {
    "flag": True, "count": 3, "rate": 0.5, "name": "a", "widths": [8, 16], "epochs": {"mnist": 2},
    "inner": {"share": 0.25}, "several": [{"share": 0.5}, {"share": 1}],
}  # fmt: skip


def built(**values) -> Outer:
    return params.build(Outer, GOOD | values, "outer")


# --------------------------------------------------------------------------------------------------- one value


@given(st.lists(st.text(min_size=1), min_size=1), st.data())
def test_one_of_returns_what_is_valid(valid, data):
    """Each valid name is returned as it is, also from a source that can be read once only."""
    value = data.draw(st.sampled_from(valid))
    assert params.one_of(value, valid, "name") == value
    assert params.one_of(value, iter(valid), "name") == value


def test_misspelt_name_is_answered_with_the_nearest_valid_one():
    """What was unknown, what was probably meant, and what is valid."""
    text = refusal(params.one_of, "guded", ("standard", "guided"), "training")
    assert text == "unknown training 'guded'; did you mean 'guided'? (valid: standard, guided)"
    assert refusal(params.one_of, "guded", iter(("standard", "guided")), "training") == text


def test_name_like_no_other_gets_the_list_alone():
    """No guess is made up, but every valid name is told."""
    text = refusal(params.one_of, "zzz", ("local", "ray"), "executor")
    assert text == "unknown executor 'zzz' (valid: local, ray)"


@pytest.mark.parametrize("value", [None, 3, ["ray"], {"ray": 1}, True])
def test_what_is_no_text_is_no_name(value):
    """Values of other types, also those that cannot be keys of a dictionary, are refused by name."""
    assert refusal(params.one_of, value, {"local": 1, "ray": 2}, "executor").startswith(f"unknown executor {value!r}")


def test_require_says_the_message_unless_the_condition_holds():
    """The message is all that is said."""
    params.require(True, "never said")
    assert refusal(params.require, False, "grid is empty") == "grid is empty"


def test_least_value_is_allowed():
    """The limit itself is valid, anything below is named with it."""
    assert built(count=1, rate=0).count == 1
    assert refusal(lambda: built(count=0)) == "outer.count must be at least 1, not 0"
    assert refusal(lambda: built(rate=-0.5)) == "outer.rate must be at least 0, not -0.5"


@pytest.mark.parametrize("name", ["count", "rate"])
def test_nan_is_at_least_nothing(name):
    """A number that compares with nothing passes no limit."""
    value = dataclasses.replace(built(), inner=Inner(float("nan"))).inner
    assert refusal(params.at_least, "inner", value, 0, "share") == "inner.share must be at least 0, not nan"
    assert refusal(lambda: built(**{name: float("nan")})).startswith(f"outer.{name} must be ")


def test_errors_are_value_errors():
    """Callers that do not know this library can catch them."""
    assert issubclass(ParamsError, ValueError)


# ---------------------------------------------------------------------------------------------------- sections


def test_section_becomes_typed_values():
    """Lists become tuples, mappings dictionaries, sections in a section their dataclass."""
    section = built()
    assert section == Outer(True, 3, 0.5, "a", (8, 16), {"mnist": 2}, Inner(0.25), (Inner(0.5), Inner(1.0)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        section.count = 4


def test_the_file_s_own_values_are_not_handed_out():
    """Who changes a dictionary of a section does not change what was read."""
    raw = {"mnist": 2}
    built(epochs=raw).epochs.clear()
    assert raw == {"mnist": 2}


@given(st.integers(-(2**60), 2**60))
def test_whole_numbers_pass_for_floats(number):
    """`weight: 1` is 1.0, and nothing but the type changes."""
    found = params.check(number, float, "rate")
    assert type(found) is float and found == float(number)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()),
    st.dictionaries(st.text(), st.integers()),
)  # fmt: skip


@given(VALUES, st.sampled_from([bool, int, float, str, list, dict]))
def test_nothing_else_is_converted(value, kind):
    """A value passes as it is if its type is exactly the one asked for; true is no number, 2.0 is not whole."""
    if type(value) is kind:
        assert params.check(value, kind, "here") is value
    elif not (kind is float and type(value) is int):
        assert refusal(params.check, value, kind, "here") == f"here must be of type {kind.__name__}, not {shown(value)}"


@pytest.mark.parametrize("kind", [kind for kind in BAD_NUMBERS if kind != "nan"])
def test_wrong_float_is_refused(kind):
    """Text, flags, nothing and lists are no numbers."""
    value = BAD_NUMBERS[kind]
    assert refusal(lambda: built(rate=value)) == f"outer.rate must be of type float, not {value!r}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widths": 8}, "outer.widths must be of type list, not 8"),
        ({"widths": [8, "16"]}, "outer.widths[1] must be of type int, not '16'"),
        ({"epochs": [2]}, "outer.epochs must be of type dict, not [2]"),
        ({"epochs": {"mnist": 2.0}}, "outer.epochs.mnist must be of type int, not 2.0"),
        ({"inner": None}, "outer.inner must be of type dict, not None"),
        ({"inner": {"share": "a"}}, "outer.inner.share must be of type float, not 'a'"),
        ({"inner": {}}, "outer.inner lacks share"),
        ({"several": [{"share": 1}, {"shar": 1}]},
         "unknown key in outer.several[1] 'shar'; did you mean 'share'? (valid: share)"),
    ],
)  # fmt: skip
def test_place_is_named_however_deep(values, message):
    """The path leads to the value, with the index in a list."""
    assert refusal(lambda: built(**values)) == message


@pytest.mark.parametrize("key", GOOD)
def test_missing_key_is_named(key):
    """Every key is required, there are no silent defaults."""
    raw = {name: value for name, value in GOOD.items() if name != key}
    assert refusal(params.build, Outer, raw, "outer") == f"outer lacks {key}"


def test_all_missing_keys_are_named():
    """In the order in which they are declared."""
    assert refusal(params.check_keys, {"b": 1}, ("a", "b", "c"), "here") == "here lacks a, c"
    params.check_keys({"b": 1, "a": 2}, iter(("a", "b")), "here")


@pytest.mark.parametrize("raw", [None, [], "text", 3])
def test_section_that_is_no_mapping_is_refused(raw):
    """A section left empty in YAML is None, and is named."""
    assert refusal(params.build, Outer, raw, "outer") == f"outer must be of type dict, not {raw!r}"


def test_key_that_is_no_text_is_refused():
    """YAML allows numbers as keys."""
    assert refusal(params.check_keys, {1: 2}, ("a",), "here").startswith("unknown key in here 1 ")


# ---------------------------------------------------------------------------------------------------- the file


@pytest.fixture
def path(tmp_path):
    """Where a params.yaml of a test stands."""
    return tmp_path / "params.yaml"


def test_params_yaml_is_read_as_yaml_reads_it(path):
    """The committed file by default, another one where it is named; the values are PyYAML's."""
    assert params.read() == RAW
    path.write_text("a: {b: [1, 2.5, true, null, text]}\n")
    assert params.read(path) == {"a": {"b": [1, 2.5, True, None, "text"]}}


def test_file_is_utf8_whatever_the_machine_s_own_encoding(path):
    """Comments and texts may hold any character."""
    path.write_bytes("text: é ≥\n".encode())
    assert params.read(path) == {"text": "é ≥"}


def test_file_that_is_not_there_is_named(path):
    """One sentence with the path."""
    assert refusal(params.read, path) == f"{path} does not exist"


def test_path_is_looked_up_at_the_time_of_reading(path, monkeypatch):
    """A test that moves params.yaml is obeyed."""
    path.write_text("a: 1")
    monkeypatch.setattr(paths, "PARAMS", path)
    assert params.read() == {"a": 1}


@pytest.mark.parametrize("text", ["scale: [full", "scale: full\n\tgrid: {}", "a: b: c", "grid: {datasets: [mnist}"])
def test_file_that_is_no_yaml_is_refused_with_its_line(path, text):
    """One line that says where the file stops being YAML."""
    path.write_text(text)
    assert re.match(r"params.yaml is not valid YAML: line \d+, column \d+: .", refusal(params.read, path))


def test_line_and_column_count_from_one(path):
    """The place is the one that an editor shows."""
    path.write_text("a: 1\nb:\n  - 2\n  c: 3\n")
    assert refusal(params.read, path).startswith("params.yaml is not valid YAML: line 4, column 3: ")


def test_file_of_control_characters_is_refused(path):
    """A damaged file, whose characters YAML does not allow at all, is one line, too."""
    path.write_text("scale: \x01")
    assert refusal(params.read, path).startswith("params.yaml is not valid YAML: unacceptable character")


def test_file_that_would_build_an_object_is_refused(path):
    """Plain values only: a file cannot make Python call anything."""
    path.write_text("a: !!python/object/apply:os.getcwd []")
    assert refusal(params.read, path).startswith("params.yaml is not valid YAML: line 1, column 4: could not determine")


def test_key_that_stands_twice_is_refused(path):
    """YAML itself takes the last one; a changed number further up would do nothing."""
    text = paths.PARAMS.read_text(encoding="utf-8")
    path.write_text(text.replace("  batch_size: 128", "  batch_size: 64\n  batch_size: 128"), encoding="utf-8")
    line = text[: text.index("  batch_size: 128")].count("\n") + 2
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == RAW
    expected = f"params.yaml is not valid YAML: line {line}, column 3: 'batch_size' stands twice"
    assert refusal(params.read, path) == expected


@pytest.mark.parametrize("text", ["a: 1\na: 1", "- {a: 1, a: 2}", "a: {b: {c: 1, 'c': 2}}", "a: {b: 1}\nc: 2\na: 3"])
def test_key_that_stands_twice_is_found_however_deep(path, text):
    """In every mapping, also where the value is the same and where one is quoted."""
    path.write_text(text)
    assert refusal(params.read, path).endswith("stands twice")


def test_one_key_in_two_sections_is_fine(path):
    """Only within a mapping may a key stand once."""
    path.write_text("a: {x: 1}\nb: {x: 2, c: {x: 3}}\n")
    assert params.read(path) == {"a": {"x": 1}, "b": {"x": 2, "c": {"x": 3}}}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("0127", 127), ("0o17", 15), ("1:30", "1:30"), ("no", "no"), ("1_000", 1000), ("+.5", 0.5)],
)
def test_values_are_those_that_dvc_reads(path, text, value):
    """By YAML 1.2, to which DVC holds: another reading would train with other numbers than those recorded."""
    path.write_text(f"a: {text}\n")
    found = params.read(path)["a"]
    assert found == value and type(found) is type(value)
    assert load_yaml(path)["a"] == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: caf\xe9", "is not UTF-8 text: byte 7 is 0xe9"),
        (b"[a, b]: 1", "the key ('a', 'b') is no name"),
        (b"a: {1: 2}", "params.yaml: a: the key 1 is no name"),
        (b"a: {no: 2, 1.5: 3}", "params.yaml: a: the key 1.5 is no name"),
        (b"a: 2024-99-99", "month must be in 1..12"),
        (b"a: 2024-01-31", "no text, number or list, but datetime.date(2024, 1, 31)"),
        (b"a: " + b"[" * 3000, "more than 20 levels"),
        (b"a: " + b"{a: " * 3000, "more than 20 levels"),
        (b"a: " + b"9" * 400, "is too large: 9999"),
        (b"a: " + b"9" * 5000, "Exceeds the limit"),
        (b"a: &x [*x]", "line 1, column 8: found a reference; write the value out"),
        (b"a: !!int x", "invalid literal"),
        (b"a: !!binary x", "base64"),
        (b"a: !!set {b, c}", "no text, number or list"),
        (b"--- 1\n--- 2", "found another document"),
        (b"<<: 3", "expected a mapping"),
        (b"a: \x00", "unacceptable character"),
        (b"\xff\xfea\x00", "is not UTF-8"),
        (b"#" * 2_000_000, "larger than 1,000,000 characters"),
    ],
)
def test_what_no_settings_can_be_is_refused(path, content, message):
    """One line for every kind of text that a reader of YAML does something else with."""
    path.write_bytes(content)
    assert message in refusal(params.read, path)


def test_references_that_unfold_without_end_are_refused_at_once(path):
    """Nine lists of nine references each would be 400 million values."""
    lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10))]
    path.write_text("\n".join(lines))
    assert "line 2, column 10: found a reference" in refusal(params.read, path)


def test_a_folder_and_a_file_that_may_not_be_read_are_named(path, tmp_path):
    """What the system says, with the file."""
    (tmp_path / "folder.yaml").mkdir()
    assert refusal(params.read, tmp_path / "folder.yaml") == f"{tmp_path / 'folder.yaml'}: Is a directory"


WORDS = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"], include_characters="\n\t")) | st.sampled_from(
    ["no", "1:30", "0o17", "1e-3", "~", "null", "", " ", "*a", "<<", "2024-01-31", "0127"]
)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**14), 10**14) | st.floats(allow_nan=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(WORDS, TREES, max_size=4))
def test_values_that_are_written_are_read_again(values):
    """Whatever the words."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        path.write_text(params.text_of(values), encoding="utf-8")
        assert params.read(path) == values


@given(st.text() | st.binary().map(lambda content: content.decode("latin-1")), st.integers(0, 10**6))
@settings(max_examples=50)
def test_any_text_is_values_or_one_line(text, place):
    """A piece of text anywhere in params.yaml, or alone: read, or refused in one line."""
    whole = paths.PARAMS.read_text(encoding="utf-8")
    cut = place % (len(whole) + 1)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        for content in (text, whole[:cut] + text + whole[cut:]):
            path.write_bytes(content.encode("utf-8", "surrogatepass"))
            try:
                params.read(path)
            except params.ParamsError as error:
                assert str(error).isprintable() and len(str(error)) <= params.LONGEST
