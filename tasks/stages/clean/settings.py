"""Settings of the stage `clean`."""

from __future__ import annotations

from tasks.core.sections import Section


class CleanConfig(Section):
    normalize_unicode: bool
    decode_entities: bool
    remove_html: bool
    remove_urls: bool
    remove_control: bool
    collapse_spaces: bool
    remove_stated_stars: bool
    drop_duplicates: bool
    drop_repeated_pairs: bool
