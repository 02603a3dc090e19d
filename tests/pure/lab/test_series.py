# SPDX-License-Identifier: Apache-2.0
"""Bringing a source tree to a series and from one series to the next."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from scripts.lab_vm.errors import LabError
from scripts.lab_vm.series import apply_series, touched_files

CHANGE = """\
--- a/virt/kvm.c
+++ b/virt/kvm.c
@@ -1,3 +1,3 @@
 one
-two
+TWO
 three
"""
CREATE = """\
diff --git a/virt/new.c b/virt/new.c
new file mode 100644
--- /dev/null
+++ b/virt/new.c
@@ -0,0 +1 @@
+new
"""
DELETE = """\
diff --git a/virt/old.c b/virt/old.c
deleted file mode 100644
--- a/virt/old.c
+++ /dev/null
@@ -1 +0,0 @@
-old
"""
SECOND = """\
--- a/virt/kvm.c
+++ b/virt/kvm.c
@@ -1,3 +1,3 @@
 one
-TWO
+2
 three
"""


class Tree:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.pristine, self.tree = root / "pristine", root / "tree"
        for name, content in {
            "virt/kvm.c": "one\ntwo\nthree\n",
            "virt/old.c": "old\n",
            "mm/mm.c": "mm\n",
        }.items():
            file = self.pristine / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
            os.utime(file, (1000, 1000))
        subprocess.run(["cp", "-al", str(self.pristine), str(self.tree)], check=True)

    def apply(self, *patches: str) -> list[str]:
        files = []
        for number, text in enumerate(patches):
            files.append(self.root / f"{number:04}.patch")
            files[-1].write_text(text)
        return apply_series(self.pristine, self.tree, files)

    def text(self, name: str) -> str | None:
        return (self.tree / name).read_text() if (self.tree / name).exists() else None


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_files_are_changed_made_and_removed(tree: Tree) -> None:
    changed = tree.apply(CHANGE, CREATE, DELETE)

    assert changed == ["virt/kvm.c", "virt/new.c", "virt/old.c"]
    assert (tree.text("virt/kvm.c"), tree.text("virt/new.c"), tree.text("virt/old.c")) == (
        "one\nTWO\nthree\n",
        "new\n",
        None,
    )


def test_the_pristine_source_behind_the_same_inodes_stays(tree: Tree) -> None:
    tree.apply(CHANGE, DELETE)

    assert (tree.pristine / "virt/kvm.c").read_text() == "one\ntwo\nthree\n"
    assert (tree.pristine / "virt/old.c").read_text() == "old\n"


def test_an_equal_series_touches_nothing(tree: Tree) -> None:
    tree.apply(CHANGE)
    os.utime(tree.tree / "virt/kvm.c", (2000, 2000))

    assert tree.apply(CHANGE) == []
    assert (tree.tree / "virt/kvm.c").stat().st_mtime == 2000


def test_the_next_series_changes_only_what_differs(tree: Tree) -> None:
    tree.apply(CHANGE, CREATE)

    assert tree.apply(CHANGE, SECOND, CREATE) == ["virt/kvm.c"]
    assert tree.text("virt/kvm.c") == "one\n2\nthree\n"


def test_a_dropped_patch_is_undone_with_a_new_time(tree: Tree) -> None:
    tree.apply(CHANGE, CREATE, DELETE)

    tree.apply()

    assert (tree.text("virt/kvm.c"), tree.text("virt/new.c"), tree.text("virt/old.c")) == (
        "one\ntwo\nthree\n",
        None,
        "old\n",
    )
    # Objects made from the patched file are younger than the pristine file: make has to see a younger source.
    assert (tree.tree / "virt/kvm.c").stat().st_mtime > 1000


def test_a_patch_that_does_not_apply_is_named_and_changes_nothing(tree: Tree) -> None:
    tree.apply(CHANGE)

    with pytest.raises(LabError, match=r"0001\.patch does not apply"):
        tree.apply(CREATE, SECOND)
    assert (tree.text("virt/kvm.c"), tree.text("virt/new.c")) == ("one\nTWO\nthree\n", None)


def test_a_run_that_was_cut_short_is_repaired(tree: Tree) -> None:
    tree.apply(CHANGE)
    (tree.tree / "virt/kvm.c").write_text("half")

    tree.apply()

    assert tree.text("virt/kvm.c") == "one\ntwo\nthree\n"


def test_renames_name_both_files() -> None:
    patch = "diff --git a/x.c b/y.c\nsimilarity index 100%\nrename from x.c\nrename to y.c\n"

    assert touched_files(patch) == {"x.c", "y.c"}
