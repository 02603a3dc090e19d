# SPDX-License-Identifier: Apache-2.0
"""Build the lab's kernels, or find them built.

Under `build/kernel/`:

    source-<digest>/     the pristine source, unpacked once
    tree-<variant>/      hard links to it, the series applied, objects kept between builds
    <variant>-<key>/     a finished kernel; made in one rename, so it is whole or not there
    <variant>.log        the last build's output
    <variant>.lock       held by the one who builds
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.lab_vm import recipe as recipes
from scripts.lab_vm.errors import LabError, missing_packages
from scripts.lab_vm.places import KERNEL_BUILD
from scripts.lab_vm.progress import Progress
from scripts.lab_vm.series import apply_series

TOOLS = {
    "gcc": "gcc",
    "ld": "binutils",
    "make": "make",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "perl": "perl",
    "tar": "tar",
    "xz": "xz-utils",
    "gzip": "gzip",
    "strip": "binutils",
}
"""What the kernel's build runs, and the Debian package of each."""

HEADERS = {"/usr/include/gelf.h": "libelf-dev", "/usr/include/stdio.h": "libc6-dev"}

NEVER_READ = ["*/drivers/gpu/drm/amd/include/*", "*/arch/*/boot/dts/*"]
"""Half a gigabyte of tables that no configuration of ours compiles."""

USUAL_STEPS = 1150
"""Lines `make` prints for a whole build; only the progress display uses it."""

KEPT_PRODUCTS = 4
"""Finished kernels kept per variant, so that going back and forth between two series builds nothing."""


@dataclass(frozen=True)
class KernelImage:
    """A finished kernel. `boot` is what QEMU loads."""

    boot: Path
    bzimage: Path
    system_map: Path | None
    name: str


def own_file(file: Path) -> KernelImage:
    """A kernel the user names: a bzImage, or a vmlinux with a PVH entry."""
    if not file.is_file():
        raise LabError(
            f"no kernel file {file}; --kernel takes {', '.join(recipes.LAB_VARIANTS)} or a bzImage or vmlinux"
        )
    return KernelImage(boot=file, bzimage=file, system_map=None, name=str(file))


def ensure_kernel(variant: str, progress: Progress, jobs: int | None = None) -> KernelImage:
    """The kernel of a variant, built when its content is new. LabError says what to do when it cannot be."""
    recipe = recipes.find_recipe(variant)
    key = recipe.key(recipes.source_digest(recipe.source), _compiler())
    product = KERNEL_BUILD / f"{variant}-{key}"
    if not product.exists():
        with _build_lock(variant, progress):
            # The one who held the lock may have built it.
            if not product.exists():
                _build(recipe, product, progress, jobs or os.cpu_count() or 1)
    os.utime(product)
    return KernelImage(product / "vmlinux", product / "bzImage", product / "System.map", variant)


def _compiler() -> str:
    try:
        version = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise missing_packages(f"no working gcc ({error})", ["gcc"]) from error
    return version.stdout.splitlines()[0]


@contextlib.contextmanager
def _build_lock(variant: str, progress: Progress) -> Iterator[None]:
    KERNEL_BUILD.mkdir(parents=True, exist_ok=True)
    with (KERNEL_BUILD / f"{variant}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.stage(f"waiting for another build of the {variant} kernel")
            fcntl.flock(lock, fcntl.LOCK_EX)
            progress.clear()
        yield


def _build(recipe: recipes.Recipe, product: Path, progress: Progress, jobs: int) -> None:
    _check_tools()
    pristine = _unpack(recipe.source, progress)
    tree = _tree(recipe.variant, pristine, progress)
    apply_series(pristine, tree, recipe.patches)
    log = KERNEL_BUILD / f"{recipe.variant}.log"
    with log.open("w") as output:
        _configure(recipe, tree, output.fileno(), log)
        progress.stage(f"building the {recipe.variant} kernel with {jobs} jobs (log: {log})")
        _make(tree, recipe.variant, ["vmlinux", "bzImage"], output.fileno(), log, jobs, progress)
        progress.done(f"built the {recipe.variant} kernel")
    _keep(tree, recipe, product)
    _drop_old_products(recipe.variant)


def _check_tools() -> None:
    missing = {package for tool, package in TOOLS.items() if shutil.which(tool) is None}
    missing |= {package for header, package in HEADERS.items() if not Path(header).exists()}
    if missing:
        raise missing_packages("the kernel cannot be built: tools are missing", sorted(missing))


def _unpack(archive: Path, progress: Progress) -> Path:
    pristine = KERNEL_BUILD / f"source-{recipes.source_digest(archive)[:12]}"
    if pristine.exists():
        return pristine
    progress.stage(f"unpacking {archive}")
    # A name of its own: another variant's build may unpack at the same time.
    unfinished = pristine.with_name(f"{pristine.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    excludes = [f"--exclude={pattern}" for pattern in NEVER_READ]
    done = subprocess.run(
        ["tar", "-C", str(unfinished), "--strip-components=1", *excludes, "-xf", str(archive)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        shutil.rmtree(unfinished)
        raise LabError(
            f"cannot unpack {archive} (about 1.3 GB): {done.stderr.strip()}. "
            f"Free space, or apt-get install --reinstall {recipes.SOURCE_PACKAGE}"
        )
    try:
        unfinished.rename(pristine)
    except OSError:
        # Somebody else was first; theirs is the same.
        shutil.rmtree(unfinished)
    progress.done(f"unpacked {archive}")
    return pristine


def _tree(variant: str, pristine: Path, progress: Progress) -> Path:
    tree = KERNEL_BUILD / f"tree-{variant}"
    origin = tree / ".lab-source"
    if origin.exists() and origin.read_text() == pristine.name:
        return tree
    progress.stage(f"preparing {tree}")
    shutil.rmtree(tree, ignore_errors=True)
    subprocess.run(["cp", "-al", str(pristine), str(tree)], check=True)
    origin.write_text(pristine.name)
    progress.clear()
    return tree


def _configure(recipe: recipes.Recipe, tree: Path, output: int, log: Path) -> None:
    _make(tree, recipe.variant, ["tinyconfig"], output, log)
    config = tree / ".config"
    fragments = [path.read_text() for path in recipe.fragments]
    config.write_text(recipes.merge_config(config.read_text(), fragments))
    _make(tree, recipe.variant, ["olddefconfig"], output, log)
    lost = recipes.lost_settings(config.read_text(), fragments)
    if lost:
        names = ", ".join(str(path) for path in recipe.fragments)
        raise LabError(
            f"Kconfig did not take all of {names}; a dependency is missing or another option selects it:\n"
            + "\n".join(lost)
        )


def _make(
    tree: Path,
    variant: str,
    targets: list[str],
    output: int,
    log: Path,
    jobs: int = 1,
    progress: Progress | None = None,
) -> None:
    compiler = "ccache gcc" if shutil.which("ccache") else "gcc"
    command = [
        "make",
        f"-j{jobs}",
        f"CC={compiler}",
        f"HOSTCC={compiler}",
        f"LOCALVERSION=-{variant}",
        *targets,
    ]
    steps = 0
    with subprocess.Popen(
        command,
        cwd=tree,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    ) as make:
        assert make.stdout is not None
        for line in make.stdout:
            os.write(output, line)
            steps += 1
            if progress is not None:
                progress.update(f"step {steps} of up to {USUAL_STEPS}")
    if make.returncode != 0:
        if progress is not None:
            progress.clear()
        last = log.read_text(errors="replace").splitlines()[-25:]
        raise LabError(
            f"`make {' '.join(targets)}` failed in {tree} with status {make.returncode}; the whole output is in {log}, "
            "its end:\n" + "\n".join(last)
        )


def _environment() -> dict[str, str]:
    """Nothing of the machine or the moment goes into the kernel, so that ccache and the key hold."""
    inherited = {
        name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "CCACHE_DIR") if name in os.environ
    }
    return inherited | {
        "LC_ALL": "C",
        "KBUILD_BUILD_TIMESTAMP": "1970-01-01",
        "KBUILD_BUILD_USER": "lab",
        "KBUILD_BUILD_HOST": "lab",
        "KBUILD_BUILD_VERSION": "1",
        # Variants share what compiles equally. Dependency mode saves a fifth of a cold build's time.
        "CCACHE_NOHASHDIR": "1",
        "CCACHE_DEPEND": "1",
    }


def _keep(tree: Path, recipe: recipes.Recipe, product: Path) -> None:
    unfinished = product.with_name(f"{product.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    subprocess.run(["strip", "-o", str(unfinished / "vmlinux"), str(tree / "vmlinux")], check=True)
    shutil.copy(tree / "arch/x86/boot/bzImage", unfinished / "bzImage")
    shutil.copy(tree / "System.map", unfinished / "System.map")
    shutil.copy(tree / ".config", unfinished / "config")
    made_of = {"source": str(recipe.source), "patches": [path.name for path in recipe.patches]}
    (unfinished / "made-of.json").write_text(json.dumps(made_of, indent=1))
    unfinished.rename(product)


def _drop_old_products(variant: str) -> None:
    products = sorted(
        KERNEL_BUILD.glob(f"{variant}-{'[0-9a-f]' * 12}"),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    for path in products[KEPT_PRODUCTS:]:
        shutil.rmtree(path, ignore_errors=True)
