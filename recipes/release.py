"""The wheel and the registry's archive of this version, built into dist/ and checked. Publishes nothing.

python -m recipes.release            # of a version with a date in CHANGELOG.md, from a clean checkout
python -m recipes.release --draft    # of what is here
"""

import argparse
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import op4ksr_core

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"


def check_version(root: Path, version: str) -> str:
    """The heading of the changelog's first entry. Raises ValueError where the three places name different versions."""
    project = re.search(r'^version = "(.+)"$', (root / "pyproject.toml").read_text(), re.M)
    heading = re.search(r"^## (\S+) \((.+)\)$", (root / "CHANGELOG.md").read_text(), re.M)
    if project is None or heading is None:
        raise ValueError('pyproject.toml needs a line version = "X", CHANGELOG.md a heading ## X (date).')
    named = {"op4ksr_core": version, "pyproject.toml": project[1], "CHANGELOG.md": heading[1]}
    if len(set(named.values())) > 1:
        raise ValueError("The version differs: " + ", ".join(f"{place} has {one}" for place, one in named.items()))
    return heading[2]


def tracked(*options: str) -> set[str]:
    """The repository's files. Raises CalledProcessError outside a git checkout."""
    listed = subprocess.run(["git", "ls-files", *options], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.splitlines())


def archive_files() -> set[str]:
    """Tracked files less what .comfyignore leaves out, as the registry's publisher packs them."""
    return tracked() - tracked("-i", "-c", "-X", ".comfyignore")


def build(folder: Path) -> tuple[Path, Path]:
    """Writes the wheel and the archive into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run(pip, check=True)
    archive = folder / f"op4ksr-{op4ksr_core.__version__}-comfyui.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name in sorted(archive_files()):
            file.write(ROOT / name, name)
    return folder / f"op4ksr-{op4ksr_core.__version__}-py3-none-any.whl", archive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draft", action="store_true", help="without a date and from a checkout with changes")
    draft = parser.parse_args().draft
    try:
        date = check_version(ROOT, op4ksr_core.__version__)
    except ValueError as error:
        sys.exit(str(error))
    changes = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    if not draft and (date == "unreleased" or changes.stdout):
        sys.exit("A release needs a date in CHANGELOG.md in place of `unreleased`, and a clean checkout; or --draft.")
    made = build(DIST)
    environment = os.environ | {"OP4KSR_RELEASE": str(DIST)}
    checks = [sys.executable, "-m", "pytest", "-q", "tests/test_package.py"]
    subprocess.run(checks, cwd=ROOT, env=environment, check=True)
    print("\n".join(str(path) for path in made))


if __name__ == "__main__":
    main()
