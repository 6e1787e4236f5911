"""Run something once another package is imported: at once if it is already, else when it is."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def after_import(package: str, action: Callable[[], object]) -> None:
    """Call `action` as soon as `package` is imported; `package` is not imported by this call."""
    if package in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Watch(package, action))


class _Watch(MetaPathFinder):
    """Waits for the import of one package, and then removes itself."""

    def __init__(self, package: str, action: Callable[[], object]) -> None:
        self.package, self.action = package, action

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.package:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _LoaderWithAction(spec.loader, self.action)
        return spec


class _LoaderWithAction(Loader):
    """Loads the package with the package's own loader, then calls the action."""

    def __init__(self, loader: Loader, action: Callable[[], object]) -> None:
        self.loader, self.action = loader, action

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.action()
