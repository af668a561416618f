"""Files inside optional packages, read without importing the package, or from wheels in a folder."""

import importlib.util
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


class Missing(Exception):
    """Data or a package is not there; the message is one line and says how to install it."""


@dataclass(frozen=True)
class Source:
    """Where data comes from.

    package: the top-level package whose files hold the data; None for data that Python brings along.
    install: what to type to get it.
    files: paths of the files that are read, relative to the package.
    """

    title: str
    licence: str
    package: str | None = None
    install: str = ""
    files: tuple[str, ...] = ()

    def missing(self) -> Missing:
        return Missing(f"{self.title} is missing: {self.install}")

    def folder(self) -> Path | None:
        """Where the installed package lies; None if it is not installed. Does not import it."""
        spec = importlib.util.find_spec(self.package) if self.package else None
        return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None

    def present(self, data: Path | None = None) -> bool:
        """Whether read() would find the data."""
        if self.package is None or self.folder() is not None:
            return True
        return data is not None and (
            bool(self._wheels(data)) or all((data / PurePosixPath(file).name).is_file() for file in self.files)
        )

    def read(self, path: str, data: Path | None = None) -> bytes:
        """The content of a file, `path` being relative to the package.

        With `data`, a folder: first the file of that name in it, then the package's wheel in it
        (`pip download --no-deps` fetches one), then the installed package. Raises Missing if none has the file."""
        if data is not None:
            plain = data / PurePosixPath(path).name
            if plain.is_file():
                return plain.read_bytes()
            for wheel in self._wheels(data):
                with zipfile.ZipFile(wheel) as archive:
                    return archive.read(f"{self.package}/{path}")
        folder = self.folder()
        if folder is None or not (folder / path).is_file():
            raise self.missing()
        return (folder / path).read_bytes()

    def _wheels(self, data: Path) -> list[Path]:
        return sorted(data.glob(f"{self.package}-*.whl"))
