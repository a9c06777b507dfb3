"""Folders on this machine or on any file system that pyarrow knows (s3://, gs://, hdfs://).

What is written appears whole or not at all: locally under another name first, then renamed; an
object store shows an object when all of it has arrived.
"""

import os
import uuid
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
from pyarrow import fs

from hrnet_ray.data.annotations import ensure_dir, require_dir, resolve_image_path
from hrnet_ray.errors import ClusterError, DataError, UsageError, format_list

PathOrUri = str | Path
"""A local path, or a URI such as s3://bucket/atrw."""
FileStamp = tuple[int, int]
"""Size in bytes and time of the last change in ns: another stamp, another file."""

SECRET_QUERY_PARAMS = ("access_key", "secret_key", "session_token")
PARTIAL_SUFFIX = ".part"  # ends the name of what is not whole yet


@dataclass(frozen=True)
class StorageDir:
    """A folder, and the file system that has it. Names below it are written with `/`."""

    filesystem: fs.FileSystem
    path: str
    """As `files` wants it."""
    query: str | None = None
    """The query of a URI, behind its `?`; None for a local folder."""
    scheme: str = ""

    @property
    def is_local(self) -> bool:
        return self.query is None

    @property
    def root(self) -> PathOrUri:
        """What opens this folder again; it never holds a secret."""
        if self.is_local:
            return Path(self.path)
        return self.get_uri("") + (f"?{self.query}" if self.query else "")

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    def get_uri(self, name: str) -> str:
        """The absolute path or the URI of a file below.

        A reader that is to use another server than the environment's needs `files` beside it.
        """
        return self._get_path(name) if self.is_local else f"{self.scheme}://{self._get_path(name)}"

    def _get_path(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path

    def make_dir(self, flag: str, name: str = "") -> None:
        """Make the folder, or one below it. An object store needs none.

        Raises:
            DataError: it cannot be made.
        """
        if self.is_local:
            ensure_dir(Path(self._get_path(name)), flag)

    def check_exists(self, flag: str) -> None:
        """Refuse a folder that is not there.

        Raises:
            DataError: it is not there, or is a file.
            ClusterError: the storage does not answer.
        """
        if self.is_local:
            require_dir(Path(self.path), flag)
            return
        found = self.get_file_type()
        if found != fs.FileType.Directory:
            is_what = "is a file" if found == fs.FileType.File else "is not there, or empty"
            raise DataError(f"the folder {is_what}", f"{flag} {self.root}", "check the address")

    def get_file_type(self) -> fs.FileType:
        """Whether it is a folder, a file, or not there."""
        return self._get_file_info("").type

    def get_file_size(self, name: str) -> int | None:
        """Bytes of a file, or None where there is none."""
        found = self._get_file_info(name)
        return found.size if found.type == fs.FileType.File else None

    def _get_file_info(self, name: str) -> fs.FileInfo:
        try:
            return self.filesystem.get_file_info(self._get_path(name))
        except NotADirectoryError:  # below a file
            return fs.FileInfo(self._get_path(name), fs.FileType.NotFound)
        except OSError as error:
            raise make_storage_error(self.get_uri(name), error) from error

    def list_files(self, name: str = "") -> list[str]:
        """Names of the files that lie directly in a folder below, sorted; none where it is not."""
        chosen = fs.FileSelector(self._get_path(name), allow_not_found=True)
        try:
            found = self.filesystem.get_file_info(chosen)
        except NotADirectoryError:
            return []
        except OSError as error:
            raise make_storage_error(self.get_uri(name), error) from error
        return sorted(info.base_name for info in found if info.type == fs.FileType.File)

    def open_file(self, name: str) -> pa.NativeFile:
        """Open a file to read it anywhere in it. OSError where that cannot be."""
        return self.filesystem.open_input_file(self._get_path(name))

    def read_bytes(self, name: str) -> bytes:
        """A whole file. OSError where that cannot be."""
        with self.filesystem.open_input_stream(self._get_path(name)) as file:
            return file.read()

    def write_bytes(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write a whole file, in place of an older one.

        Raises:
            ClusterError: the disk is full, the storage does not take it.
        """
        part = f"{self._get_path(name)}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}" if self.is_local else self._get_path(name)
        try:
            with self.filesystem.open_output_stream(part) as file:
                file.write(data)
            if self.is_local:
                os.replace(part, self._get_path(name))
        except OSError as error:
            if self.is_local:
                Path(part).unlink(missing_ok=True)
            raise make_storage_error(self.get_uri(name), error) from error

    def delete_file(self, name: str) -> None:
        """Delete a file, if it is there."""
        try:
            self.filesystem.delete_file(self._get_path(name))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise make_storage_error(self.get_uri(name), error) from error

    def get_image_stamps(self, names: set[str]) -> dict[str, FileStamp]:
        """Size and time of the images that are there; those that are not are left out.

        Raises:
            DataError: a name leads out of the folder.
            ClusterError: the storage does not answer.
        """
        if self.is_local:
            found = {name: _get_file_stamp(resolve_image_path(Path(self.path), name)) for name in sorted(names)}
            return {name: stamp for name, stamp in found.items() if stamp}
        below = {name: self._resolve_image_path(name) for name in sorted(names)}
        try:  # a thousand names a request; asking for each would be a request each
            listed = self.filesystem.get_file_info(fs.FileSelector(self.path, recursive=True))
        except OSError as error:
            raise make_storage_error(str(self.root), error) from error
        there = {info.path: (info.size, info.mtime_ns or 0) for info in listed if info.type == fs.FileType.File}
        return {name: there[path] for name, path in below.items() if path in there}

    def read_image_bytes(self, name: str) -> bytes:
        """The bytes of an image that an annotation names.

        Raises:
            DataError: the name leads out of the folder.
            ClusterError: the storage does not answer.
            OSError: there is no such file, or no right to read it.
        """
        if self.is_local:
            return resolve_image_path(Path(self.path), name).read_bytes()
        try:
            with self.filesystem.open_input_stream(self._resolve_image_path(name)) as file:
                return file.read()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:  # not the picture's fault: it must not be skipped
            raise make_storage_error(f"{self.root}: {name}", error) from error

    def _resolve_image_path(self, name: str) -> str:
        """The path of an image; what an object's name can be, a folder's rules must allow."""
        path = PurePosixPath(name)
        odd = path.is_absolute() or ".." in path.parts or not path.parts
        if odd or "\0" in name or "://" in name:
            raise DataError(
                "an annotation that names a file outside the folder of images",
                f"{name[:80]!r} below {self.root}",
                "correct file_name in the annotations; only files below --images are opened",
            )
        return self._get_path(str(path))


def open_storage_dir(path_or_uri: PathOrUri, flag: str) -> StorageDir:
    """The folder that a path or a URI names. Nothing is asked of it yet.

    Raises:
        UsageError: a URI that is not supported, or that holds a password.
    """
    if not is_uri(path_or_uri):
        return StorageDir(fs.LocalFileSystem(), str(Path(path_or_uri).absolute()))
    text = str(path_or_uri)
    parts = urlsplit(text)
    known = format_list([name for name in SECRET_QUERY_PARAMS if name in parse_qs(parts.query)])
    if "@" in parts.netloc or known:
        raise UsageError(
            "a password in a URI, which ends up in logs",
            f"{flag} {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machines a role",
        )
    try:
        files, path = fs.FileSystem.from_uri(text)
        if not path:
            raise OSError("it names no bucket")
    except (pa.ArrowException, OSError) as error:
        raise UsageError(
            "a URI that cannot be used",
            f"{flag} {text}: {format_error_message(error)}",
            "such as s3://bucket/folder, or a local path",
        ) from error
    if isinstance(files, fs.LocalFileSystem):
        return StorageDir(files, path.rstrip("/"))
    return StorageDir(files, path.rstrip("/"), parts.query, parts.scheme)


def is_uri(path_or_uri: PathOrUri) -> bool:
    """Distinguish s3://bucket from a local path."""
    return isinstance(path_or_uri, str) and "://" in path_or_uri


def make_storage_error(where: str, error: OSError) -> ClusterError:
    """Format the error of a disk or an object store in one line."""
    return ClusterError(
        "a storage that does not work",
        f"{where}: {format_error_message(error)}",
        "check its address, its space and your rights there, then repeat the command",
    )


def format_error_message(error: BaseException) -> str:
    """The message of an error, in one line that fits a terminal."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(said).split())[:200]


def _get_file_stamp(path: Path) -> FileStamp | None:
    if not os.path.isfile(path):  # False, not an error, for names that no file can have
        return None
    found = path.stat()
    return found.st_size, found.st_mtime_ns
