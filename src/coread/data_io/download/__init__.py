"""Published data get here: resumed, verified, never half-present, and no network once they are there.

Files come from http(s) or file addresses or from a dataset repository of the Hugging Face hub; what was fetched stands
in `<folder>/downloads.json`, the manifest.
"""

from coread.data_io.download.connection import DownloadError
from coread.data_io.download.dataset import download_dataset, downloaded_summary
from coread.data_io.download.local_path import cache_directory, get_local_file_path
from coread.data_io.download.manifest import check_downloaded, downloaded_folder
from coread.data_io.download.registry import read_registry, registry_text
from coread.data_io.download.transfer import fetch

__all__ = [
    "DownloadError",
    "cache_directory",
    "check_downloaded",
    "download_dataset",
    "downloaded_folder",
    "downloaded_summary",
    "fetch",
    "get_local_file_path",
    "read_registry",
    "registry_text",
]
