"""Artifacts: the zipped results that stages hand to one another through `transfer/`.

A zip holds `manifest.json` beside tables (.csv), arrays (.npz), weights (.safetensors, .weights.h5), figures (.png) and
settings (.json). It is written under a temporary name and renamed, so a killed run leaves the old one whole; nothing
in it is a pickle; loading checks every member against its SHA-256.
"""

from mvtec_ad.transfer.artifacts import MAKERS, SCHEMA, Artifact, load, save
from mvtec_ad.transfer.colab import download, upload
from mvtec_ad.transfer.files import file_sha256, replacing
from mvtec_ad.transfer.members import SUFFIXES, npz_bytes
from mvtec_ad.transfer.provenance import git_commit, versions

__all__ = [
    "MAKERS",
    "SCHEMA",
    "SUFFIXES",
    "Artifact",
    "download",
    "file_sha256",
    "git_commit",
    "load",
    "npz_bytes",
    "replacing",
    "save",
    "upload",
    "versions",
]
