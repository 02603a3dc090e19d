# SPDX-License-Identifier: Apache-2.0
"""What names a built kernel, and its configuration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts.lab_vm.errors import LabError
from scripts.lab_vm.places import KERNEL_SOURCES
from scripts.lab_vm.recipe import (
    VARIANTS,
    Recipe,
    find_recipe,
    lost_settings,
    merge_config,
    parse_config,
    source_digest,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config").write_text("CONFIG_KVM=y\n")
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "0002-b.patch").write_text("two")
    (tmp_path / "series" / "0001-a.patch").write_text("one")
    (tmp_path / "source.tar.xz").write_bytes(b"source")
    return tmp_path


def patched(folder: Path) -> Recipe:
    return find_recipe("patched", folder, folder / "source.tar.xz")


def test_patches_are_taken_in_the_order_of_their_names(folder: Path) -> None:
    assert [path.name for path in patched(folder).patches] == ["0001-a.patch", "0002-b.patch"]


def test_equal_content_has_an_equal_key(folder: Path) -> None:
    before = patched(folder).key("digest", "gcc 12")
    os.utime(folder / "config", (1, 1))

    assert patched(folder).key("digest", "gcc 12") == before


def test_a_comment_in_the_configuration_changes_no_kernel(folder: Path) -> None:
    before = patched(folder).key("digest", "gcc 12")
    (folder / "config").write_text("# why\nCONFIG_KVM=y\n")

    assert patched(folder).key("digest", "gcc 12") == before


@pytest.mark.parametrize(
    "change", ["patch", "patch name", "new patch", "config", "source", "compiler", "variant"]
)
def test_whatever_changes_the_kernel_changes_the_key(folder: Path, change: str) -> None:
    before = patched(folder).key("digest", "gcc 12")
    digest, compiler = "digest", "gcc 12"
    series = folder / "series"

    if change == "patch":
        (series / "0001-a.patch").write_text("One")
    elif change == "patch name":
        (series / "0001-a.patch").rename(series / "0003-a.patch")
    elif change == "new patch":
        (series / "0003-c.patch").write_text("")
    elif change == "config":
        (folder / "config").write_text("CONFIG_KVM=n\n")
    digest = "other" if change == "source" else digest
    compiler = "gcc 13" if change == "compiler" else compiler
    recipe = patched(folder)
    if change == "variant":
        recipe = Recipe("upstream", recipe.source, recipe.patches, recipe.fragments)

    assert recipe.key(digest, compiler) != before


def test_bytes_cannot_move_from_one_patch_to_the_next_unseen(folder: Path) -> None:
    before = patched(folder).key("digest", "gcc 12")
    (folder / "series" / "0001-a.patch").write_text("on")
    (folder / "series" / "0002-b.patch").write_text("etwo")

    assert patched(folder).key("digest", "gcc 12") != before


def test_upstream_has_no_patches(folder: Path) -> None:
    assert find_recipe("upstream", folder, folder / "source.tar.xz").patches == ()


def test_what_the_lab_needs_comes_first_in_every_variant(folder: Path) -> None:
    (folder / "lab").mkdir()
    (folder / "lab" / "0001-emulation.patch").write_text("for the emulation")

    assert [path.name for path in find_recipe("upstream", folder, folder / "source.tar.xz").patches] == [
        "0001-emulation.patch"
    ]
    assert [path.name for path in patched(folder).patches] == [
        "0001-emulation.patch",
        "0001-a.patch",
        "0002-b.patch",
    ]


def test_a_missing_source_names_the_package(folder: Path) -> None:
    with pytest.raises(LabError, match=r"apt-get install linux-source-6\.12"):
        find_recipe("upstream", folder, folder / "nothing")


def test_an_empty_series_is_not_built_as_patched(folder: Path) -> None:
    for patch in (folder / "series").glob("*"):
        patch.unlink()

    with pytest.raises(LabError, match="holds no"):
        patched(folder)


def test_an_unknown_variant_lists_those_there_are() -> None:
    with pytest.raises(LabError, match="upstream, patched"):
        find_recipe("mainline")


def test_the_source_is_read_again_only_when_it_changed(tmp_path: Path) -> None:
    source, memory = tmp_path / "source", tmp_path / "memory"
    source.write_bytes(b"one")
    os.utime(source, ns=(1, 1))
    first = source_digest(source, memory)
    source.write_bytes(b"two")
    os.utime(source, ns=(1, 1))  # same size, same time: taken for unchanged
    remembered = source_digest(source, memory)
    os.utime(source, ns=(2, 2))

    assert remembered == first
    assert source_digest(source, memory) != first


def test_a_damaged_memory_of_the_digest_is_replaced(tmp_path: Path) -> None:
    source, memory = tmp_path / "source", tmp_path / "memory"
    source.write_bytes(b"one")
    memory.write_text("{")

    assert source_digest(source, memory) == source_digest(source, memory)


def test_a_fragment_replaces_and_adds_settings() -> None:
    base = "# comment\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\n"

    merged = parse_config(merge_config(base, ["CONFIG_B=y\n", '# CONFIG_A is not set\nCONFIG_D="x"\n']))

    assert merged == {"CONFIG_C": "m", "CONFIG_B": "y", "CONFIG_A": "n", "CONFIG_D": '"x"'}


def test_a_fragment_s_settings_come_last_so_that_they_win_a_choice() -> None:
    merged = merge_config("CONFIG_HZ_250=y\n# CONFIG_HZ_100 is not set\n", ["CONFIG_HZ_100=y\n"])

    assert merged.splitlines() == ["CONFIG_HZ_250=y", "CONFIG_HZ_100=y"]


def test_settings_that_kconfig_dropped_are_named() -> None:
    lost = lost_settings("CONFIG_A=y\nCONFIG_C=y\n", ["CONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\n"])

    assert lost == ["CONFIG_B: asked for y, got n", "CONFIG_C: asked for n, got y"]


@pytest.mark.parametrize(
    "name", sorted({name for variant in VARIANTS.values() for name in variant.fragments})
)
def test_our_configuration_says_each_thing_once(name: str) -> None:
    lines = [line for line in (KERNEL_SOURCES / name).read_text().splitlines() if parse_config(line)]
    symbols = [next(iter(parse_config(line))) for line in lines]

    assert sorted(symbols) == sorted(set(symbols))
