"""Patterns of statements of stars in free text, in the languages of large shops: "4,0 von 5 Sternen", "four stars"."""

from __future__ import annotations

NUMBER = r"[0-9]+(?:[.,][0-9]+)?"
STARS = "(?:stars?|sterne?n?|[ée]toiles?|estrellas?|stelle|sterren|estrelas?|gwiazd(?:ki|ek)?|stjärnor)"
OF = r"(?:out of|of|von|sur|de|su|van|av|z)"
COUNTS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}

# In free text only what speaks of stars counts: "4 of 5 times" and "1/5" inside a sentence do not.
STATED = "(?i)" + "|".join(
    [
        rf"({NUMBER})\s*(?:/|\b{OF}\b)\s*5\s*{STARS}\b",
        rf"^({NUMBER})\s*(?:/|\bout of\b)\s*5\b",
        rf"5つ星のうち\s*({NUMBER})",
        rf"\b([0-5](?:[.,][0-9])?)[ -]?{STARS}\b",
        rf"\b({'|'.join(COUNTS)})[ -]stars?\b",
        r"([★⭐🌟]{1,5})[☆✩⚝]{0,4}",
    ]
)
