"""The words of generated reviews: Zipfian pseudo-words, English function words, opinions and dirt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def seeded(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


# In order of frequency; pseudo-words follow.
COMMON_WORDS = """
the and I a it to of is this for in that was with my as on you but have are so they one be at had if
or very from when all just can were has would we an me use which more will about out what there get up after than by
time only because them too he she your even do much their its don't also no been other how didn't some first two who
into could over any these then our got people still am before way did his her every being while through where book
product since most few down now item again price story box order box little package gift always I'm I've isn't year
days month week thing lot husband wife daughter son house kitchen hair battery screen sound song machine water hand
part side store brand seller service shipping character author chapter reader music toy kids game cable phone light
door button plastic metal bottle cream smell taste heat money quality picture video room bag case model set
"""
# Phrases of reviews of one to five stars; neighbouring ratings share some.
PHRASES = (
    "terrible,awful,horrible,the worst,garbage,waste of money,total waste,broken,useless,refund,returned it,do not buy,"
    "never again,hate it,junk,defective,fell apart,stopped working,avoid,not good at all,ruined,zero stars,rip off",
    "disappointed,disappointing,poor,cheap,not good,not worth it,weak,bad,not great,did not work,not happy,annoying,"
    "boring,too small,too thin,not recommended,not as described,flimsy,expected better,unfortunately,does not fit",
    "okay,decent,average,not bad,mediocre,so so,fair,acceptable,could be better,nothing special,it works,fine,"
    "mixed feelings,on the other hand,not perfect,somewhat,hard to say,as expected",
    "good,nice,works well,solid,useful,pleased,happy,like it,comfortable,no complaints,recommend,enjoyable,well made,"
    "handy,not disappointed,good value,pretty good,helpful,easy to use,fun,liked it,satisfied",
    "great,excellent,perfect,love it,amazing,wonderful,the best,fantastic,highly recommend,awesome,beautiful,favorite,"
    "superb,works perfectly,worth every penny,brilliant,loved it,could not be happier,exactly what I wanted",
)
# Words that are dirt. Accents are decomposed (NFD), as in part of the release.
SPECIAL = {
    "line_break": ("<br />", "<br /><br />"),
    "entity": ("&#34;so called&#34;", "&amp;", "&quot;new&quot;", "&lt;3"),
    "quote": ('"new"', '"as is"', '5"'),
    "blank_run": ("   ", " \n\n ", "     ", "\n \n \n"),
    "tag": ("<b>really</b>", "<i>very</i>", "<b>not</b>"),
    "accent": ("cafe\u0301", "nai\u0308ve", "cliche\u0301", "sen\u0303or", "de\u0301ja\u0300"),
    "url": ("http://www.example.com/dp/a1?ref=x&b=2", "https://example.org/review", "www.example.net"),
    "emoji": ("\U0001f600", "\U0001f44d\U0001f3fd", "\u2764\ufe0f"),
    "control": ("\x01", "\x07", "\x1b", "\x7f"),
    "cjk_body": ("很好", "质量", "不错", "とても", "良い", "買いました", "배송", "좋아요"),
}
VOCABULARY, SPELLINGS, CAPITAL = 30_000, 8, 4
MARKS = ("", ",", ".", "!")  # a token is word * SPELLINGS + CAPITAL (or 0) + mark


@dataclass(frozen=True)
class Language:
    """All spellings of all words. `sampled` and `phrases` (a row per tone) repeat each word by its frequency."""

    spellings: pa.Array
    sampled: np.ndarray
    phrases: np.ndarray
    marks: np.ndarray
    special: dict[str, np.ndarray]

    def write(
        self, rng: np.random.Generator, lengths: np.ndarray, tone: np.ndarray, opinions: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sample texts of these lengths (1 or more) and tones (0..4); returns all tokens and where each text starts."""
        total, ends = int(lengths.sum()), np.cumsum(lengths)
        word = self.sampled[rng.integers(0, self.sampled.size, total, dtype=np.int32)]
        at = np.flatnonzero(rng.random(total, dtype=np.float32) < opinions)
        tones = tone[np.searchsorted(ends, at, side="right")]
        word[at] = self.phrases[tones, rng.integers(0, self.phrases.shape[1], len(at))]
        mark = self.marks[rng.integers(0, len(self.marks), total, dtype=np.uint8)]
        begins = np.concatenate([[True], mark[:-1] >= MARKS.index(".")])
        begins[(ends - lengths)] = True
        return word * SPELLINGS + begins * CAPITAL + mark, ends - lengths

    def join(self, tokens: np.ndarray, starts: np.ndarray) -> pa.Array:
        offsets = np.append(starts, len(tokens)).astype(np.int32)
        return pc.binary_join(pa.ListArray.from_arrays(offsets, self.spellings.take(pa.array(tokens))), " ")


@lru_cache(maxsize=1)
def language() -> Language:
    """Build the language, the same for all seeds, so that a model of one sample works on another."""
    rng = seeded(36)
    onsets, codas = (*"bcdfgklmnprstv", "bl", "ch", "dr", "gr", "pr", "st", "tr"), ("", *"nrsl")
    syllables = np.array([a + v + z for a in onsets for v in "aeiou" for z in codas])
    parts = rng.choice(syllables, (4, 2 * VOCABULARY))
    parts[2:, : VOCABULARY // 4] = ""  # the most frequent words are short
    parts[3, rng.random(2 * VOCABULARY) < 0.7] = ""
    opinions = [p.split(",") for p in PHRASES]
    made = dict.fromkeys([*COMMON_WORDS.split(), *map("".join, parts.T.tolist())])
    meaningful = {word for level_phrases in opinions for phrase in level_phrases for word in phrase.split()}
    words = [w for w in made if w not in meaningful or w in COMMON_WORDS.split()][:VOCABULARY]
    often = 1 / (np.arange(VOCABULARY) + 5.0)
    sampled = np.searchsorted(np.cumsum(often) / often.sum(), (np.arange(2**20) + 0.5) / 2**20)
    level = np.repeat(np.arange(5), [len(p) for p in opinions])
    fits = np.exp(-(((np.arange(5)[:, None] - level) / 1.1) ** 2) / 2) + 0.02
    phrases = np.array([rng.choice(len(level), 2**12, p=f / f.sum()) for f in fits]) + VOCABULARY
    words += [phrase for level_phrases in opinions for phrase in level_phrases]
    spelled = [form + mark for word in words for form in (word, word[0].upper() + word[1:]) for mark in MARKS]
    special = {}
    for kind, forms in SPECIAL.items():
        special[kind] = np.arange(len(spelled), len(spelled) + len(forms))
        spelled += forms
    marks = np.repeat(np.arange(4, dtype=np.int32), [222, 12, 19, 3])
    return Language(pa.array(spelled), sampled.astype(np.int32), phrases.astype(np.int32), marks, special)
