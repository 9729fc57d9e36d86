"""An invented language whose true entropy is known, so that a model's loss on it can be compared with the ideal.

Documents come from a probabilistic grammar over an invented lexicon. A document names its topic and its protagonist,
then tells sentences in which number and noun class agree across relative clauses, paired conjunctions open and close,
and thousands of fixed associations (a noun's adjective and class; within a topic a noun's verb, a verb's preposition
and object) can be known only by heart. Every word belongs to one category and every category can start only one kind
of constituent, so a text has exactly one derivation, and its probability is the product over the choices made:
``Document.nats`` is the exact negative log-probability of the text, its end included. No model predicts such documents
in fewer nats on average (:func:`entropy`, in closed form).

Deterministic on every platform: ``random.Random(n).random()`` is the only source of chance, weights are integers,
and no set or hash order matters. Only the last digits of ``nats`` depend on the platform's logarithm.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, islice, product
from random import Random

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.records import TextSpec
from pytest_proofpack.plan.text_sources import TextSource

LANGUAGE_SEED = 20260
"""Fixes lexicon and associations; another value is another language, which the embedded model doesn't speak."""

_SYLLABLES = ["".join(pair) for pair in product("bdfgklmnprstvz", "aeiou")]
_ZIPF_SCALE = 10**6
_CLASSES = 3
_PLURAL = ("", "n")
_ADJECTIVE_ENDINGS = ("l", "r", "s")
_VERB_ENDINGS = (("b", "d"), ("f", "g"), ("k", "m"))


@dataclass(frozen=True)
class Document:
    """One text and its exact code length: minus the natural logarithm of its probability under the generator."""

    text: str
    nats: float


@dataclass(frozen=True)
class Sizes:
    """How large the language is: numbers of words, and of the nouns and verbs that one topic uses.

    Function words (nine, the prepositions, two for each conjunction) have one syllable, of which there are seventy.
    """

    topics: int = 48
    nouns: int = 2000
    topic_nouns: int = 200
    verbs: int = 600
    topic_verbs: int = 80
    adjectives: int = 300
    adverbs: int = 40
    prepositions: int = 16
    conjunctions: int = 8


class Choice:
    """One random choice among ``len(weights)`` items, with a part reserved for a favourite.

    With probability ``recall`` the favourite is taken, otherwise an item in proportion to its integer weight; both ways
    may give the same item, and the code lengths are those of the sum.
    """

    def __init__(self, weights: Sequence[int], recall: float = 0.0) -> None:
        self._cumulative = list(accumulate(weights))
        self._total = self._cumulative[-1]
        self._recall = recall
        self._drawn = [(1.0 - recall) * weight / self._total for weight in weights]
        self.nats_other = [-math.log(share) for share in self._drawn]
        self.nats_favourite = [-math.log(recall + share) for share in self._drawn]
        self._entropy_drawn = math.fsum(map(float.__mul__, self._drawn, self.nats_other))

    @classmethod
    def zipf(cls, items: int, recall: float = 0.0) -> Choice:
        """Weights 1, 1/2, 1/3, ... in the order of the items."""
        return cls([_ZIPF_SCALE // rank for rank in range(1, items + 1)], recall)

    @classmethod
    def coin(cls, percent: int) -> Choice:
        """Item 1 with ``percent`` in a hundred, else item 0."""
        return cls((100 - percent, percent))

    def draw(self, uniform: Callable[[], float], favourite: int = 0) -> int:
        """Return an item's index; ``uniform`` gives independent numbers in [0, 1)."""
        if self._recall and uniform() < self._recall:
            return favourite
        return bisect_right(self._cumulative, uniform() * self._total)

    def nats(self, item: int, favourite: int = 0) -> float:
        """Minus the natural logarithm of the probability of ``item``."""
        return self.nats_favourite[item] if item == favourite else self.nats_other[item]

    def probabilities(self, favourite: int = 0) -> list[float]:
        """The probability of every item."""
        return self.marginal((1.0,), (favourite,))

    def marginal(self, shares: Sequence[float], favourites: Sequence[int]) -> list[float]:
        """The probability of every item when the favourite is ``favourites[i]`` with probability ``shares[i]``."""
        result = list(self._drawn)
        for share, favourite in zip(shares, favourites, strict=True):
            result[favourite] += self._recall * share
        return result

    def entropy(self, favourite: int = 0) -> float:
        """Expected nats: minus the sum of p ln p."""
        share, nats = self._drawn[favourite], self.nats_favourite[favourite]
        return self._entropy_drawn - share * self.nats_other[favourite] + (self._recall + share) * nats


@dataclass(frozen=True)
class Topic:
    """A topic's words by rank, and what within it goes with what (ranks again)."""

    name: str
    nouns: list[int]
    verbs: list[int]
    verb_of_noun: list[int]
    object_of_verb: list[int]
    preposition_of_verb: list[int]


class Grammar:
    """The probabilities of every choice; ``relative`` holds one coin for each depth at which a clause may nest."""

    def __init__(self, sizes: Sizes) -> None:
        self.topic = Choice.zipf(sizes.topics)
        self.protagonist = Choice.zipf(sizes.topic_nouns)
        self.subject = Choice.zipf(sizes.topic_nouns, recall=0.3)
        self.object = Choice.zipf(sizes.topic_nouns, recall=0.5)
        self.verb = Choice.zipf(sizes.topic_verbs, recall=0.6)
        self.adjective = Choice.zipf(sizes.adjectives, recall=0.8)
        self.preposition = Choice.zipf(sizes.prepositions, recall=0.9)
        self.adverb = Choice.zipf(sizes.adverbs)
        self.conjunction = Choice.zipf(sizes.conjunctions)
        self.plural = Choice.coin(40)
        self.described = Choice.coin(45)
        self.relative = (Choice.coin(25), Choice.coin(15))
        self.has_object = Choice.coin(75)
        self.has_adverb = Choice.coin(20)
        self.compound = Choice.coin(25)
        self.last = Choice.coin(25)


class Language:
    """Lexicon, associations and grammar of one language of the given sizes."""

    def __init__(self, sizes: Sizes, seed: int = LANGUAGE_SEED) -> None:
        uniform = Random(seed).random
        self.grammar = Grammar(sizes)
        needed = 3 * _CLASSES + sizes.prepositions + 2 * sizes.conjunctions
        short = (_SYLLABLES[index] for index in _sample(uniform, len(_SYLLABLES), needed))
        self.determiners = [(next(short), next(short)) for _ in range(_CLASSES)]
        self.relatives = list(islice(short, _CLASSES))
        self.prepositions = list(islice(short, sizes.prepositions))
        self.conjunctions = [(next(short), next(short)) for _ in range(sizes.conjunctions)]
        stems = _content_stems(uniform)
        self.adverbs = list(islice(stems, sizes.adverbs))
        self.verbs = list(islice(stems, sizes.verbs))
        self.adjectives = list(islice(stems, sizes.adjectives))
        self.nouns = list(islice(stems, sizes.nouns))
        self.class_of_noun = _integers(uniform, sizes.nouns, _CLASSES)
        self.adjective_of_noun = _integers(uniform, sizes.nouns, sizes.adjectives)
        self.topics = [_topic(uniform, name, sizes) for name in islice(stems, sizes.topics)]

    def document(self, uniform: Callable[[], float]) -> Document:
        """Write one document with the chances that ``uniform`` gives, numbers in [0, 1)."""
        return _Writer(self, uniform).document()

    def entropy(self) -> float:
        """Expected nats of one document, in closed form."""
        grammar = self.grammar
        shares = grammar.topic.probabilities()
        sentence = math.fsum(map(float.__mul__, shares, map(self._sentence_entropy, self.topics)))
        mean_sentences = 1 / grammar.last.probabilities()[1]
        heading = grammar.topic.entropy() + grammar.protagonist.entropy()
        return heading + mean_sentences * (sentence + grammar.last.entropy())

    def _sentence_entropy(self, topic: Topic) -> float:
        """Expected nats of a sentence about ``topic``: by the chain rule, conditional entropies add up.

        The protagonist is drawn from the same weights as other subjects, so these remain a subject's marginal
        distribution, also in relative clauses.
        """
        grammar = self.grammar
        subject = grammar.protagonist.probabilities()
        verb = grammar.verb.marginal(subject, topic.verb_of_noun)
        direct = grammar.object.marginal(verb, topic.object_of_verb)
        verb_nats = _mean_entropy(subject, grammar.verb, topic.verb_of_noun)
        subject_nats = _mean_entropy(subject, grammar.subject, range(len(subject)))
        object_nats = _mean_entropy(verb, grammar.object, topic.object_of_verb)
        favourites = [self.adjective_of_noun[noun] for noun in topic.nouns]

        def phrase(nouns: list[float], noun_nats: float, depth: int) -> float:
            result = noun_nats + grammar.plural.entropy() + grammar.described.entropy()
            result += grammar.described.probabilities()[1] * _mean_entropy(nouns, grammar.adjective, favourites)
            if depth < len(grammar.relative):
                nested = phrase(subject, subject_nats, depth + 1) + verb_nats
                coin = grammar.relative[depth]
                result += coin.entropy() + coin.probabilities()[1] * nested
            return result

        complement = phrase(direct, object_nats, 0)
        complement += _mean_entropy(verb, grammar.preposition, topic.preposition_of_verb)
        clause = phrase(subject, subject_nats, 0) + verb_nats
        clause += grammar.has_object.entropy() + grammar.has_object.probabilities()[1] * complement
        clause += grammar.has_adverb.entropy() + grammar.has_adverb.probabilities()[1] * grammar.adverb.entropy()
        compound = grammar.conjunction.entropy() + clause
        return grammar.compound.entropy() + clause + grammar.compound.probabilities()[1] * compound


class _Writer:
    """Writes one document from left to right and adds up the nats of its choices."""

    def __init__(self, language: Language, uniform: Callable[[], float]) -> None:
        self._language = language
        self._grammar = language.grammar
        self._uniform = uniform
        self._words: list[str] = []
        self._nats = 0.0
        self._topic = language.topics[self._choose(self._grammar.topic)]
        self._protagonist = self._choose(self._grammar.protagonist)

    def document(self) -> Document:
        protagonist = self._language.nouns[self._topic.nouns[self._protagonist]]
        self._words += (self._topic.name, protagonist + ":")
        self._sentence()
        while not self._choose(self._grammar.last):
            self._sentence()
        return Document(" ".join(self._words), self._nats)

    def _choose(self, choice: Choice, favourite: int = 0) -> int:
        item = choice.draw(self._uniform, favourite)
        self._nats += choice.nats(item, favourite)
        return item

    def _sentence(self) -> None:
        if self._choose(self._grammar.compound):
            opening, closing = self._language.conjunctions[self._choose(self._grammar.conjunction)]
            self._words.append(opening)
            self._clause()
            self._words[-1] += ","
            self._words.append(closing)
        self._clause()
        self._words[-1] += "."

    def _clause(self) -> None:
        language, grammar = self._language, self._grammar
        verb = self._predicate(*self._noun_phrase(grammar.subject, self._protagonist))
        if self._choose(grammar.has_object):
            preposition = self._choose(grammar.preposition, self._topic.preposition_of_verb[verb])
            self._words.append(language.prepositions[preposition])
            self._noun_phrase(grammar.object, self._topic.object_of_verb[verb])
        if self._choose(grammar.has_adverb):
            self._words.append(language.adverbs[self._choose(grammar.adverb)])

    def _noun_phrase(self, choice: Choice, favourite: int, depth: int = 0) -> tuple[int, str]:
        """Write a noun phrase; return its noun's rank and the ending that a verb agreeing with it has."""
        language, grammar = self._language, self._grammar
        rank = self._choose(choice, favourite)
        noun = self._topic.nouns[rank]
        noun_class = language.class_of_noun[noun]
        plural = self._choose(grammar.plural)
        self._words += (language.determiners[noun_class][plural], language.nouns[noun] + _PLURAL[plural])
        if self._choose(grammar.described):
            adjective = self._choose(grammar.adjective, language.adjective_of_noun[noun])
            self._words.append(language.adjectives[adjective] + _ADJECTIVE_ENDINGS[noun_class])
        if depth < len(grammar.relative) and self._choose(grammar.relative[depth]):
            self._words.append(language.relatives[noun_class])
            self._predicate(*self._noun_phrase(grammar.subject, self._protagonist, depth + 1))
        return rank, _VERB_ENDINGS[noun_class][plural]

    def _predicate(self, subject: int, ending: str) -> int:
        verb = self._choose(self._grammar.verb, self._topic.verb_of_noun[subject])
        self._words.append(self._language.verbs[self._topic.verbs[verb]] + ending)
        return verb


def generate(seed: int, documents: int, split: str = "evaluation") -> list[Document]:
    """Return ``documents`` documents of the one language that the embedded model speaks.

    Each (split, seed, position) has a random stream of its own: splits don't overlap, and a longer list begins with
    the shorter one.

    Args:
        seed: names the sample; any integer.
        documents: how many; one has about 47 words.
        split: "training", "evaluation" or any other name.

    Raises:
        ConfigurationError: ``documents`` is negative.
    """
    if documents < 0:
        raise ConfigurationError(f"cannot generate {documents} synthetic documents: ask for none or more")
    language = default_language()
    return [language.document(Random(_stream_seed(split, seed, position)).random) for position in range(documents)]


def load(spec: TextSpec) -> Iterator[str]:
    """Return ``spec.documents`` documents of the split ``spec.split``, by ``spec.seed``."""
    return (document.text for document in generate(spec.seed, spec.documents, spec.split))


SYNTHETIC = TextSource(name="synthetic", load=load, takes=("seed", "documents", "split"))


def entropy() -> float:
    """Return the generator's entropy: the nats per document that no model can beat on average."""
    return default_language().entropy()


@lru_cache(maxsize=1)
def default_language() -> Language:
    """The language of :func:`generate`, built on first use (some hundredths of a second)."""
    return Language(Sizes())


def _stream_seed(split: str, seed: int, position: int) -> int:
    name = f"{LANGUAGE_SEED}/{split}/{seed}/{position}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _content_stems(uniform: Callable[[], float]) -> Iterator[str]:
    """Yield different stems of two or three syllables; they end in a vowel, and inflections are single consonants."""
    seen: set[str] = set()
    while True:
        stem = "".join(_SYLLABLES[index] for index in _integers(uniform, 2 + int(uniform() * 2), len(_SYLLABLES)))
        if stem not in seen:
            seen.add(stem)
            yield stem


def _topic(uniform: Callable[[], float], name: str, sizes: Sizes) -> Topic:
    return Topic(
        name=name,
        nouns=_sample(uniform, sizes.nouns, sizes.topic_nouns),
        verbs=_sample(uniform, sizes.verbs, sizes.topic_verbs),
        verb_of_noun=_integers(uniform, sizes.topic_nouns, sizes.topic_verbs),
        object_of_verb=_integers(uniform, sizes.topic_verbs, sizes.topic_nouns),
        preposition_of_verb=_integers(uniform, sizes.topic_verbs, sizes.prepositions),
    )


def _integers(uniform: Callable[[], float], count: int, below: int) -> list[int]:
    return [int(uniform() * below) for _ in range(count)]


def _sample(uniform: Callable[[], float], population: int, count: int) -> list[int]:
    """Return ``count`` different integers below ``population`` in random order (Fisher-Yates, from the front)."""
    items = list(range(population))
    for place in range(count):
        other = place + int(uniform() * (population - place))
        items[place], items[other] = items[other], items[place]
    return items[:count]


def _mean_entropy(shares: Sequence[float], choice: Choice, favourites: Sequence[int]) -> float:
    """The conditional entropy of ``choice`` when favourite ``favourites[i]`` has probability ``shares[i]``."""
    return math.fsum(share * choice.entropy(favourite) for share, favourite in zip(shares, favourites, strict=True))
