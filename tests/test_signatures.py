"""Constructor arguments and imports, read from source that is never imported."""

from pathlib import Path

import pytest

from coread.signatures import (
    PACKAGE,
    constructor_arguments,
    deciding_code,
    imported_modules,
    module_constant,
    module_file,
)

FILES = {
    "__init__.py": '"""Nothing, but pack.never is mentioned."""\n',
    "never.py": "",
    "typing_only.py": "",
    "plain.py": "class Plain:\n    def __init__(self, size, *, depth=1): ...\n\nclass Child(Plain): ...\n",
    "open.py": "class Open:\n    def __init__(self, **options): ...\n",
    "parts/__init__.py": "from pack.plain import Plain as Renamed\n",
    "parts/leaf.py": (
        "from typing import TYPE_CHECKING\n"
        "from dataclasses import dataclass\n"
        "if TYPE_CHECKING:\n    from pack.typing_only import x\n"
        "@dataclass\nclass Record:\n    name: str\n    size: int = 3\n"
        "def lazy():\n    '''Mentions pack.never.'''\n    from pack import late\n"
    ),
    "late.py": "READERS = {'a': 'pack.readers.one'}\n",
    "readers/__init__.py": "",
    "readers/one.py": "",
    "readers/two.py": "",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "pack" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "pack"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("pack.plain.Plain", {"size", "depth"}),
        ("pack.plain.Child", {"size", "depth"}),
        ("pack.parts.Renamed", {"size", "depth"}),
        ("pack.parts.leaf.Record", {"name", "size"}),
        ("pack.open.Open", None),
        ("torch.optim.Adam", None),
    ],
)
def test_constructor_arguments(package: Path, target: str, expected: set | None) -> None:
    found = constructor_arguments(target, package)
    assert found == (None if expected is None else frozenset(expected))


@pytest.mark.parametrize("target", ["pack.absent.Thing", "pack.plain.Absent"])
def test_a_name_that_the_package_does_not_have_is_refused(package: Path, target: str) -> None:
    with pytest.raises(LookupError, match=r"absent|Absent"):
        constructor_arguments(target, package)


def test_imports_are_followed_through_functions_and_packages(package: Path) -> None:
    script = package.parent / "script.py"
    script.write_text("import os\nfrom pack.parts.leaf import Record\n")
    found = imported_modules([script], (), package)
    assert found == [
        "pack",
        "pack.late",
        "pack.parts",
        "pack.parts.leaf",
        "pack.plain",
    ]
    assert [module_file(module, package).name for module in found[:2]] == ["__init__.py", "late.py"]


def test_a_registry_is_read_without_importing_it(package: Path) -> None:
    assert module_constant("pack.late", "READERS", package) == {"a": "pack.readers.one"}
    with pytest.raises(KeyError, match=r"pack.late has no literal WRITERS"):
        module_constant("pack.late", "WRITERS", package)


def test_classes_named_in_a_config_count_as_imports(package: Path) -> None:
    script = package.parent / "script.py"
    script.write_text("import os\n")
    assert imported_modules([script], ["pack.readers.two.Reader"], package) == [
        "pack",
        "pack.readers",
        "pack.readers.two",
    ]


def test_what_a_module_imports_when_it_is_asked_for(package: Path) -> None:
    (package / "lazy.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from pack.plain import Child as Kid\n    from pack.open import Open\n"
        "def __getattr__(name): ...\n"
    )
    assert constructor_arguments("pack.lazy.Kid", package) == {"size", "depth"}
    named, whole = package.parent / "named.py", package.parent / "whole.py"
    named.write_text("from pack.lazy import Kid\n")
    whole.write_text("import pack.lazy\n")
    assert imported_modules([named], (), package) == ["pack", "pack.lazy", "pack.plain"]
    assert imported_modules([whole], (), package) == ["pack", "pack.lazy"]
    assert imported_modules([whole], ["pack.lazy.Open"], package) == ["pack", "pack.lazy", "pack.open"]


def test_a_second_name_of_a_class_takes_what_the_class_takes(package: Path) -> None:
    (package / "plain.py").write_text("class Plain:\n    def __init__(self, size): ...\n\nOther = Plain\n")
    assert constructor_arguments("pack.plain.Other", package) == {"size"}


def test_what_a_group_of_settings_brings_decides_only_where_the_group_is(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("from coread.eval.predictions import predict\n")
    without, with_group = (
        {
            path.relative_to(PACKAGE).as_posix()
            for path in deciding_code(script, f"dataloader:\n  batch_size: 1\n{group}")
        }
        for group in ("", "regressors:\n  history: null\n")
    )
    assert with_group - without >= {
        "data_io/context.py",
        "data_io/regressors/session.py",
        "data_io/regressors/history.py",
    }
    assert not any("regressors" in name for name in without)
    assert without < with_group
