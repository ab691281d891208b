"""What the source says without importing it: constructor arguments and the modules a file depends on.

Both are read from the syntax tree, so that the workflow can check configs and list the code behind a stage in
milliseconds, without torch.
"""

import ast
import contextlib
import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
# what scripts import although no number depends on it: an edit there must not re-run a stage
NO_NUMBERS = frozenset(
    {
        "coread",
        "coread.config",
        "coread.data_io.download",  # a file that it brings is the published one, or an error
        "coread.data_io.download.connection",
        "coread.data_io.download.dataset",
        "coread.data_io.download.local_path",
        "coread.data_io.download.manifest",
        "coread.data_io.download.origin",
        "coread.data_io.download.registry",
        "coread.data_io.download.transfer",
        "coread.data_io.download.unpack",
        "coread.distributed",
        "coread.failure",
        "coread.member_lock",
        "coread.models.model_parts",  # a model file is read or refused
        "coread.provenance",
        "coread.signatures",
    }
)
# what is imported by this name where the settings have a group, and decides numbers nowhere else
GROUP_MODULES = {"regressors": "coread.data_io.context"}
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # where statements hold statements
TEMPLATES = frozenset({".html", ".css", ".js"})


def deciding_code(script: Path, settings: str, package: Path = PACKAGE, without: Sequence[str] = ()) -> list[Path]:
    """Return the modules of this package that decide a script's numbers, given the text of its settings.

    These are the modules it imports, directly or not, those of the classes that `_target_` in the settings names and
    of the groups they have (`GROUP_MODULES`), and what lies beside them in their packages (templates).
    Modules of the packages `without`, and what only these import, are left out.
    """
    targets = set(re.findall(r"_target_: (\S+)", settings))
    targets |= {module for group, module in GROUP_MODULES.items() if re.search(rf"^{group}:", settings, re.MULTILINE)}
    modules = imported_modules([script], sorted(targets), package, without)
    files = [file for name in modules if name not in NO_NUMBERS and (file := module_file(name, package)) is not None]
    folders = [file.parent for file in files if file.name == "__init__.py"]
    return files + sorted(path for folder in folders for path in folder.glob("*.*") if path.suffix in TEMPLATES)


def code_digest(script: Path, settings: str, package: Path = PACKAGE, without: Sequence[str] = ()) -> str:
    """Return one digest of a script and of the modules that decide its numbers: their names and contents."""
    digest = hashlib.sha256()
    for file in [script, *deciding_code(script, settings, package, without)]:
        name = file.relative_to(package).as_posix() if file.is_relative_to(package) else file.name
        digest.update(f"{name}\0{_content_digest(file)}\0".encode())
    return f"code {digest.hexdigest()}"


def constructor_arguments(target: str, package: Path = PACKAGE) -> frozenset[str] | None:
    """Return the argument names of a class or function of this package given by its dotted path.

    None where they cannot be told: another package, or a signature that ends in `**kwargs`. Raises LookupError if this
    package has no such module or name.
    """
    module, _, name = target.rpartition(".")
    if module.split(".")[0] != package.name:
        return None
    path = module_file(module, package)
    if path is None:
        raise LookupError(f"there is no module {module}")
    return _arguments(path, name, package)


@functools.cache
def _arguments(path: Path, name: str, package: Path) -> frozenset[str] | None:
    tree = _tree(path)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _names(node.args)
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _class_arguments(node, path, package)
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return constructor_arguments(f"{node.module}.{alias.name}", package)
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            # another name of a class in the same module
            return _arguments(path, node.value.id, package) if isinstance(node.value, ast.Name) else None
    if name in (lazy := _lazy_exports(path)):
        return constructor_arguments(lazy[name], package)
    raise LookupError(f"{path.relative_to(package.parent)} defines no {name}")


def _class_arguments(node: ast.ClassDef, path: Path, package: Path) -> frozenset[str] | None:
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return _names(statement.args)
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        fields = [s.target.id for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]
        return frozenset(fields)
    if node.bases and isinstance(node.bases[0], ast.Name):
        with contextlib.suppress(LookupError):  # a builtin class
            return _arguments(path, node.bases[0].id, package)
    return None


def _names(arguments: ast.arguments) -> frozenset[str] | None:
    if arguments.kwarg is not None:
        return None
    names = [argument.arg for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]]
    return frozenset(name for name in names if name != "self")


def imported_modules(
    entries: Iterable[Path], targets: Iterable[str] = (), package: Path = PACKAGE, without: Sequence[str] = ()
) -> list[str]:
    """Return the sorted modules of this package that the files, and the classes named by `targets`, depend on.

    Imports inside functions count, those for type checking do not, and none of the packages `without`.
    """
    found: set[str] = set()
    queue = [module for entry in entries for module in _direct_imports(entry, package)]
    queue += [module for target in targets for module in _resolve(target, package)]
    while queue:
        module = queue.pop()
        path = module_file(module, package)
        left_out = any(f"{module}.".startswith(f"{name}.") for name in without)
        if module not in found and path is not None and not left_out:
            found.add(module)
            queue.extend(_direct_imports(path, package))
    return sorted(found)


def module_constant(module: str, name: str, package: Path = PACKAGE) -> Any:
    """Return a constant of a module that is written as a literal (a registry); raises KeyError if there is none."""
    path = module_file(module, package)
    for node in _tree(path).body if path is not None else []:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return ast.literal_eval(node.value)  # type: ignore[attr-defined]
    raise KeyError(f"{module} has no literal {name}")


def module_file(module: str, package: Path = PACKAGE) -> Path | None:
    """Return the source file of a dotted module of this package, None if there is none."""
    first, *rest = module.split(".")
    if first != package.name:
        return None
    path = package.joinpath(*rest)
    return next(
        (file for file in (path.with_suffix(".py"), path / "__init__.py") if rest and file.is_file()), None
    ) or (package / "__init__.py" if not rest else None)


@functools.cache
def _direct_imports(path: Path, package: Path) -> frozenset[str]:
    return frozenset(module for name in _imported_names(_tree(path)) for module in _resolve(name, package))


def _imported_names(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted names that are imported."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            todo.extend(node.orelse)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:  # imports are statements: what expressions consist of need not be seen
            todo.extend(inner for block in BLOCKS for inner in getattr(node, block, ()) if isinstance(inner, ast.AST))


def _is_type_checking(test: ast.expr) -> bool:
    return any(
        getattr(node, "id", None) == "TYPE_CHECKING" or getattr(node, "attr", None) == "TYPE_CHECKING"
        for node in ast.walk(test)
    )


def _resolve(name: str, package: Path) -> list[str]:
    """Return the module that a dotted name lies in, with the packages above it (importing it runs them too).

    A name that its module imports when it is asked for brings the module that it comes from.
    """
    parts, attributes = name.split("."), []
    if parts[0] != package.name:
        return []
    while (path := module_file(".".join(parts), package)) is None:
        attributes.append(parts.pop())
    found = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    if attributes and (home := _lazy_exports(path).get(attributes[-1])):
        found += _resolve(home, package)
    return found


@functools.cache
def _lazy_exports(path: Path) -> Mapping[str, str]:
    """Return what a module imports only when it is asked for (PEP 562), as dotted names by name.

    It has a `__getattr__`, and says for type checking where each name comes from.
    """
    body = _tree(path).body
    if not any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in body):
        return {}
    imports = [
        statement
        for node in body
        if isinstance(node, ast.If) and _is_type_checking(node.test)
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
    ]
    return {alias.asname or alias.name: f"{node.module}.{alias.name}" for node in imports for alias in node.names}


@functools.cache
def _content_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
