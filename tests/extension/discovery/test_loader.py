# SPDX-License-Identifier: Apache-2.0
"""Packages that are imported for an extension, and packages that never are."""

import sys
from pathlib import Path

import pytest

from kmind.errors import ModuleError
from kmind.extension.discovery._standard import ALLOWED_STANDARD
from kmind.extension.discovery.loader import import_early, refuse_own_imports


def test_standard_modules_with_side_effects_are_not_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("this", "antigravity", "wave"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import_early((), {"a.py": b"import this, wave\nfrom antigravity import geohash\n"})
    assert "wave" in sys.modules
    assert not {"this", "antigravity"} & set(sys.modules)


@pytest.mark.parametrize("name", ["this", "site", "idlelib.idle", "ensurepip"])
def test_named_ones_are_refused(name: str) -> None:
    with pytest.raises(ModuleError, match=f"{name} is none of the standard modules"):
        import_early((name,), {})


def test_the_list_holds_what_there_is() -> None:
    assert set(sys.stdlib_module_names) >= ALLOWED_STANDARD
    assert not {"this", "antigravity", "site", "idlelib", "turtle", "venv"} & ALLOWED_STANDARD


@pytest.mark.parametrize("code", ["raise SystemExit(0)", "1 / 0", "raise KeyboardInterrupt", "("])
def test_a_package_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    (tmp_path / "package_that_fails.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleError, match="package_that_fails cannot be imported: "):
        import_early(("package_that_fails",), {})


@pytest.mark.parametrize(
    ("package", "provided", "name"),
    [
        ("outside.quiet", (), "outside"),
        ("outside.quiet", (), "outside.quiet.extension"),
        ("outside.quiet", ("helpers",), "helpers.early"),
        ("kmind_modules.mine", (), "kmind_modules.mine"),
        ("kmind.modules.static", (), "kmind.modules.static"),
    ],
)
def test_the_own_distribution_is_refused(
    package: str, provided: tuple[str, ...], name: str
) -> None:
    with pytest.raises(ModuleError, match=f"{name} belongs to the module's own distribution"):
        refuse_own_imports(package, provided, ["numpy", name])


def test_others_are_not_refused() -> None:
    refuse_own_imports("kmind.modules.static", (), ["kmind.evidence", "numpy.ma", "optuna"])
