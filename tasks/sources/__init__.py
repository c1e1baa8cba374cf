"""Find raw files, detect their formats, and map them to the canonical table by a dataset profile.

locations → discovery → partitions → readers → canonical
find        detect      cut          parse     map, accept or reject
"""

from __future__ import annotations

from tasks.sources.canonical import Period, to_canonical
from tasks.sources.discovery import Quarantined, Source, SourceFile
from tasks.sources.finding import discover
from tasks.sources.forgotten import Forgotten
from tasks.sources.loading import Account, Loaded, Recipe, sorted_rejects
from tasks.sources.partitions import Part, Unit, identity, plan
from tasks.sources.profiles import Profile, known_profiles, load_profile

__all__ = [
    "Account",
    "Forgotten",
    "Loaded",
    "Part",
    "Period",
    "Profile",
    "Quarantined",
    "Recipe",
    "Source",
    "SourceFile",
    "Unit",
    "discover",
    "identity",
    "known_profiles",
    "load_profile",
    "plan",
    "sorted_rejects",
    "to_canonical",
]
