"""The catalog: what a short name means, what a search finds, and how a wrong file is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.contract import Options
from beastd.errors import BadModel
from beastd.registry.catalog import Catalog, load_catalog
from beastd.registry.names import parse_name

OWL = """
description: Owl, models for the night
license: apache-2.0
parameters: {temperature: 0.6, top_k: 20}
default: 4b
tags:
  1b:
    repo: Nest/Owl-1B-GGUF
    context: 4096
    n_params: 1.2B
    variants: {q8_0: Owl-1B-Q8_0.gguf}
  4b:
    repo: Nest/Owl-4B-GGUF
    context: 40960
    n_params: 4B
    variants:
      q8_0: Owl-4B-Q8_0-00001-of-00002.gguf
      q4_k_m: Q4/Owl-4B-Q4_K_M.gguf
    default: q4_k_m
    parameters: {top_k: 40, min_p: 0}
    license: mit
    description: Owl 4B, for programs
    template: "{{ messages }}"
"""
OWLET = """
description: Owlet, hatched from llamas
license: llama3
default: tiny
tags:
  tiny: {repo: Nest/Owlet-GGUF, context: 512, n_params: 90M}
"""
LYNX = """
description: Lynx, who watches owls
license: apache-2.0
default: 4b
tags:
  4b: {repo: Den/Lynx-4B-GGUF, context: 8192, n_params: 4B}
"""


@pytest.fixture
def folder(tmp_path):
    for name, text in (("owl", OWL), ("owlet", OWLET), ("lynx", LYNX)):
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.fixture
def catalog(folder) -> Catalog:
    return load_catalog(folder)


def found(catalog: Catalog, text: str) -> list[str]:
    return [entry.name.base for entry in catalog.search(text)]


# --- find ---


def test_a_name_with_its_tag_is_found_with_all_its_fields(catalog):
    """What the file says of the tag, and what the family says where the tag says nothing."""
    entry = catalog.find(parse_name("owl:4b"))
    assert entry is not None
    assert (str(entry.name), entry.repo, entry.context, entry.n_params) == ("owl:4b", "Nest/Owl-4B-GGUF", 40960, "4B")
    assert entry.variants == {"q8_0": "Owl-4B-Q8_0-00001-of-00002.gguf", "q4_k_m": "Q4/Owl-4B-Q4_K_M.gguf"}
    assert (entry.default, entry.is_default_tag) == ("q4_k_m", True)
    assert (entry.license, entry.description, entry.template) == ("mit", "Owl 4B, for programs", "{{ messages }}")


def test_a_tags_parameters_go_before_its_familys(catalog):
    """One by one: a parameter that the tag leaves out is the family's."""
    entry, small = catalog.find(parse_name("owl:4b")), catalog.find(parse_name("owl:1b"))
    assert entry is not None
    assert small is not None
    assert entry.parameters == Options(temperature=0.6, top_k=40, min_p=0)
    assert small.parameters == Options(temperature=0.6, top_k=20)
    assert (small.license, small.description, small.is_default_tag) == (
        "apache-2.0",
        "Owl, models for the night",
        False,
    )


@pytest.mark.parametrize("text", ["owl", "OWL", "Owl:4B", "owl:latest", "owl@q8_0", "owl:4b+pirate*0.5"])
def test_a_bare_name_means_the_default_tag(catalog, text):
    """In any case of letters, and whatever variant or adapter is asked for."""
    entry = catalog.find(parse_name(text))
    assert entry is not None
    assert entry.name == parse_name("owl:4b")


@pytest.mark.parametrize("text", ["hawk", "owl:7b", "user/owl", "host.example/library/owl", "ow", "owl.yaml"])
def test_what_is_not_in_the_catalog_is_not_found(catalog, text):
    """Other families and tags, and names of somebody's namespace."""
    assert catalog.find(parse_name(text)) is None


def test_variants_may_be_left_out(catalog):
    """Then the repository itself says what there is."""
    entry = catalog.find(parse_name("owlet"))
    assert entry is not None
    assert (entry.variants, entry.default) == ({}, None)


def test_a_default_without_variants_is_a_wish_for_what_the_repository_has(tmp_path):
    """It cannot be checked here, and is kept."""
    (tmp_path / "owlet.yaml").write_text(OWLET.replace("90M", "90M, default: q4_k_m"))
    entry = load_catalog(tmp_path).find(parse_name("owlet"))
    assert entry is not None
    assert entry.default == "q4_k_m"


# --- search ---


def test_nothing_asked_for_lists_everything(catalog):
    """Families by name, tags as in the file."""
    assert found(catalog, "") == found(catalog, "  ") == ["lynx:4b", "owl:1b", "owl:4b", "owlet:tiny"]


def test_best_matches_come_first(catalog):
    """The name, then what begins with the word, then what has it as a word, then what has it within one."""
    assert found(catalog, "owl") == ["owl:1b", "owl:4b", "owlet:tiny", "lynx:4b"]
    assert found(catalog, "llama") == ["owlet:tiny"]
    assert found(catalog, "night") == ["owl:1b"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("4b", ["lynx:4b", "owl:4b"]),
        ("owl:4b", ["owl:4b"]),
        ("owl 4b", ["owl:4b", "lynx:4b"]),
        ("APACHE Den", ["lynx:4b"]),
        ("nest/owl-4b", ["owl:4b"]),
        ("owl hawk", []),
        ("hawk", []),
    ],
)
def test_every_word_must_occur_somewhere(catalog, text, names):
    """In name, description, licence or repository, in any case."""
    assert found(catalog, text) == names


@given(st.text("owl4b: .nest/PROGRAMS", max_size=12))
def test_a_search_finds_exactly_what_has_every_word(tmp_path_factory, text):
    """Ranking loses nothing and adds nothing."""
    folder = tmp_path_factory.getbasetemp() / "searched"
    if not folder.exists():
        folder.mkdir()
        (folder / "owl.yaml").write_text(OWL)
        (folder / "owlet.yaml").write_text(OWLET)
    catalog = load_catalog(folder)
    texts = {
        it.name.base: f"{it.name.base}\n{it.description}\n{it.license}\n{it.repo}".lower() for it in catalog.search("")
    }
    expected = {name for name, haystack in texts.items() if all(word in haystack for word in text.lower().split())}
    assert set(found(catalog, text)) == expected


# --- errors ---


def test_a_broken_file_hides_no_other(folder):
    """The rest is found, and the problem is told with file and line."""
    (folder / "hawk.yaml").write_text("description: Hawk\nlicense: [\n")
    catalog = load_catalog(folder)
    assert found(catalog, "") == ["lynx:4b", "owl:1b", "owl:4b", "owlet:tiny"]
    assert [problem.message.split(" line ")[0] for problem in catalog.problems] == [str(folder / "hawk.yaml")]
    assert catalog.find(parse_name("owl")) is not None
    with pytest.raises(BadModel, match=r"hawk\.yaml line \d"):
        catalog.find(parse_name("hawk"))


def test_nothing_is_read_before_it_is_needed(folder):
    """A family asked for is read, and no other."""
    catalog = load_catalog(folder)
    assert catalog.find(parse_name("owl")) is not None
    (folder / "owl.yaml").write_text("broken: [")
    (folder / "lynx.yaml").write_text(LYNX.replace("4b", "9b"))
    assert found(catalog, "") == ["lynx:9b", "owl:1b", "owl:4b", "owlet:tiny"]


def test_a_missing_folder_is_an_empty_catalog(tmp_path):
    """Nothing is found and nothing fails."""
    catalog = load_catalog(tmp_path / "none")
    assert (catalog.search(""), catalog.problems, catalog.find(parse_name("owl"))) == ([], [], None)


@pytest.mark.parametrize(
    ("was", "becomes", "problem"),
    [
        ("description: Owl, models for the night", "", "missing required field `description`"),
        ("license: apache-2.0", "license: ''", "line 3: license: Expected `str`"),
        ("license: apache-2.0", "licence: apache-2.0", "unknown field `licence`|missing required field `license`"),
        ("default: 4b", "default: 44b", r"line 5: default: there is no '44b' \(did you mean '4b'\?\)"),
        ("top_k: 20}", "top_q: 20}", "line 4: parameters: .*unknown field `top_q`"),
        ("{temperature: 0.6", "{temperature: hot", r"line 4: parameters\.temperature: Expected `float"),
        ("  1b:", "  1B:", r"line 7: tags\.1B: a name here is lower-case"),
        ("  1b:", "  a/b:", r"line 7: tags\.a/b: a name here"),
        ("    context: 4096", "    context: many", r"line 9: tags\.1b\.context: Expected `int`"),
        ("    context: 4096", "    context: 0", r"line 9: tags\.1b\.context: Expected `int` >= 1"),
        ("    context: 4096", "    size: 7", r"line 7: tags\.1b: .*(unknown|missing required) field"),
        ("Nest/Owl-1B-GGUF", "Owl-1B-GGUF", r"line 8: tags\.1b\.repo: Expected `str` matching"),
        ("Nest/Owl-1B-GGUF", "../Owl", r"line 8: tags\.1b\.repo: Expected `str` matching"),
        ("Owl-1B-Q8_0.gguf", "Owl-1B-Q8_0.bin", r"line 11: tags\.1b\.variants: Expected `str` matching"),
        ("Owl-1B-Q8_0.gguf", "../Owl.gguf", r"line 11: tags\.1b\.variants: Expected `str` matching"),
        ("Owl-1B-Q8_0.gguf", '"Owl.gguf\\n"', r"line 11: tags\.1b\.variants: Expected `str` matching"),
        ("Owl-1B-Q8_0.gguf", "/Owl.gguf", r"line 11: tags\.1b\.variants: Expected `str` matching"),
        ("{q8_0:", "{Q8_0:", r"line 11: tags\.1b\.variants\.Q8_0: a name here is lower-case"),
        ("    default: q4_k_m", "    default: q4_k_s", r"line 19: tags\.4b\.default: there is no 'q4_k_s'"),
        ("tags:\n", "tags: {}\nmore:\n", "unknown field `more`"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(folder, was, becomes, problem):
    """File, line and field of it, and what would be right."""
    assert was in OWL
    (folder / "owl.yaml").write_text(OWL.replace(was, becomes, 1))
    with pytest.raises(BadModel, match=problem) as caught:
        load_catalog(folder).find(parse_name("owl:1b"))
    assert caught.value.message.startswith(str(folder / "owl.yaml"))


def test_a_file_that_no_name_could_find_is_a_problem(folder):
    """Its family would be listed and never found."""
    (folder / "Hawk.yaml").write_text(OWL)
    catalog = load_catalog(folder)
    assert "hawk" not in " ".join(found(catalog, ""))
    assert [problem.message for problem in catalog.problems] == [
        f"{folder / 'Hawk.yaml'}: the file's own name must be its family's: lower-case letters, digits and _.-"
    ]


KEYS = st.sampled_from(["description", "license", "default", "tags", "parameters", "1b", "repo", "context", "variants"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.text("ab1/.:", max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_any_data_is_a_family_or_a_problem(tmp_path_factory, data):
    """Nothing else is raised, whatever the fields hold."""
    import yaml

    folder = tmp_path_factory.mktemp("any")
    (folder / "owl.yaml").write_text(yaml.safe_dump(data))
    catalog = load_catalog(folder)
    assert bool(catalog.problems) != bool(catalog.search(""))
