"""The invented language: the same everywhere, grammatical, and of exactly the entropy that it claims."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from itertools import product
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.text.synthetic import (
    LANGUAGE_SEED,
    Choice,
    Document,
    Language,
    Sizes,
    default_language,
    entropy,
    generate,
)

TINY_MODEL = Path(__file__).parents[2] / "suites" / "tiny_model"
SMALL = Sizes(
    topics=2, nouns=3, topic_nouns=2, verbs=3, topic_verbs=2, adjectives=2, adverbs=2, prepositions=2, conjunctions=1
)


def mean_and_error(values: list[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def sample(language: Language, documents: int, seed: int = 5) -> list[Document]:
    uniform = Random(seed).random
    return [language.document(uniform) for _ in range(documents)]


class Reader:
    """Derives a text's code length from the text alone, and refuses what the grammar doesn't allow."""

    def __init__(self, language: Language, text: str) -> None:
        self.language, self.grammar = language, language.grammar
        self.words = text.replace(".", " .").replace(",", " ,").replace(":", " :").split()
        self.nats = 0.0
        self.deepest = 0

    def code_length(self) -> float:
        names = [topic.name for topic in self.language.topics]
        self.topic = self.language.topics[self.pay(self.grammar.topic, names.index(self.next()))]
        self.protagonist = self.pay(self.grammar.protagonist, self.noun_rank(self.next()))
        self.expect(":")
        last = False
        while not last:
            self.sentence()
            last = not self.words
            self.pay(self.grammar.last, last)
        return self.nats

    def next(self) -> str:
        return self.words.pop(0)

    def expect(self, word: str) -> None:
        found = self.next()
        assert found == word, f"{found!r} instead of {word!r} before {self.words[:8]}"

    def at(self, words: list[str]) -> bool:
        return bool(self.words) and self.words[0] in words

    def pay(self, choice: Choice, item: int, favourite: int = 0) -> int:
        self.nats -= math.log(choice.probabilities(favourite)[item])
        return item

    def noun_rank(self, word: str) -> int:
        return self.topic.nouns.index(self.language.nouns.index(word))

    def sentence(self) -> None:
        openings = [opening for opening, _ in self.language.conjunctions]
        if self.pay(self.grammar.compound, self.at(openings)):
            pair = self.pay(self.grammar.conjunction, openings.index(self.next()))
            self.clause()
            self.expect(",")
            self.expect(self.language.conjunctions[pair][1])
        self.clause()
        self.expect(".")

    def clause(self) -> None:
        language, grammar = self.language, self.grammar
        verb = self.predicate(*self.noun_phrase(grammar.subject, self.protagonist))
        if self.pay(grammar.has_object, self.at(language.prepositions)):
            preposition = language.prepositions.index(self.next())
            self.pay(grammar.preposition, preposition, self.topic.preposition_of_verb[verb])
            self.noun_phrase(grammar.object, self.topic.object_of_verb[verb])
        if self.pay(grammar.has_adverb, self.at(language.adverbs)):
            self.pay(grammar.adverb, language.adverbs.index(self.next()))

    def noun_phrase(self, choice: Choice, favourite: int, depth: int = 0) -> tuple[int, str]:
        """Return the noun's rank and the ending its verb must have."""
        language, grammar = self.language, self.grammar
        determiner = self.next()
        noun_class, plural = next(
            (number, pair.index(determiner)) for number, pair in enumerate(language.determiners) if determiner in pair
        )
        word = self.next()
        assert word.endswith("n") == bool(plural), f"determiner {determiner} with noun {word}"
        rank = self.pay(choice, self.noun_rank(word.removesuffix("n")), favourite)
        self.pay(grammar.plural, plural)
        noun = self.topic.nouns[rank]
        assert language.class_of_noun[noun] == noun_class, f"determiner {determiner} with noun {word}"
        forms = [stem + "lrs"[noun_class] for stem in language.adjectives]
        if self.pay(grammar.described, self.at(forms)):
            self.pay(grammar.adjective, forms.index(self.next()), language.adjective_of_noun[noun])
        if depth < 2:
            nested = self.at(language.relatives)
            if self.pay(grammar.relative[depth], nested):
                self.deepest = max(self.deepest, depth + 1)
                self.expect(language.relatives[noun_class])
                self.predicate(*self.noun_phrase(grammar.subject, self.protagonist, depth + 1))
        return rank, "bdfgkm"[2 * noun_class + plural]

    def predicate(self, subject: int, ending: str) -> int:
        word = self.next()
        assert word[-1] == ending, f"verb {word} does not agree with its subject"
        verb = self.topic.verbs.index(self.language.verbs.index(word[:-1]))
        return self.pay(self.grammar.verb, verb, self.topic.verb_of_noun[subject])


def test_the_same_request_always_gives_the_same_text() -> None:
    documents = generate(11, 50)
    digest = hashlib.sha256("\n".join(document.text for document in documents).encode()).hexdigest()
    assert digest == "fe1dc0549e18371ad6c2503f4fff0d7d68260cf5495c406d5ea86e3271393ca6"
    assert math.fsum(document.nats for document in documents) == pytest.approx(4534.353053676052, rel=1e-12)
    assert Language(Sizes()).document(Random(3).random) == default_language().document(Random(3).random)


def test_a_longer_list_begins_with_the_shorter_one_and_seeds_differ() -> None:
    assert generate(4, 30)[:10] == generate(4, 10)
    assert generate(4, 10) != generate(5, 10)
    assert generate(4, 0) == []


def test_splits_are_different_documents() -> None:
    """Only the shortest documents can meet by chance: their probability is the one they claim."""
    splits = [{d.text for d in generate(0, 500, split) if d.nats > 40} for split in ("training", "evaluation", "other")]
    assert all(len(texts) > 300 for texts in splits)
    assert sum(map(len, splits)) == len(set.union(*splits))


def test_a_negative_number_of_documents_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="-1 synthetic documents"):
        generate(0, -1)


def test_code_length_follows_from_the_text_alone() -> None:
    """Every document parses in one way, agrees in class and number, and has the probability of that derivation."""
    depths = Counter[int]()
    for document in generate(8, 150):
        reader = Reader(default_language(), document.text)
        assert reader.code_length() == pytest.approx(document.nats, rel=1e-12)
        depths[reader.deepest] += 1
    assert all(depths[depth] > 10 for depth in (0, 1, 2))


def test_a_wrong_ending_is_no_sentence_of_the_language() -> None:
    language = default_language()
    document = next(d for d in generate(8, 50) if language.relatives[0] in d.text.split())
    verb_forms = {stem + ending: stem for stem in language.verbs for ending in "bdfgkm"}
    words = document.text.split()
    place = next(i for i, word in enumerate(words) if word in verb_forms)
    words[place] = verb_forms[words[place]] + next(e for e in "bdfgkm" if e != words[place][-1])
    with pytest.raises(AssertionError, match="does not agree"):
        Reader(language, " ".join(words)).code_length()


def test_sampled_frequencies_are_the_claimed_probabilities() -> None:
    """In a language of a dozen words, documents repeat often enough to be counted."""
    documents = sample(Language(SMALL), 30_000)
    counts = Counter(documents)
    assert len(counts) == len({document.text for document in documents}), "one text, two code lengths"
    for document, count in counts.most_common(40):
        expected = len(documents) * math.exp(-document.nats)
        assert abs(count - expected) < 5 * math.sqrt(expected), document
    assert math.fsum(math.exp(-document.nats) for document in counts) < 1


@pytest.mark.parametrize("sizes", [SMALL, Sizes()], ids=["small", "default"])
def test_entropy_in_closed_form_is_the_mean_code_length(sizes: Sizes) -> None:
    language = Language(sizes)
    mean, error = mean_and_error([document.nats for document in sample(language, 6000)])
    assert abs(mean - language.entropy()) < 4 * error
    assert error < 0.02 * mean
    assert entropy() == default_language().entropy()


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=30), st.floats(0, 0.95), st.data())
def test_a_choice_is_a_distribution(weights: list[int], recall: float, data: st.DataObject) -> None:
    choice = Choice(weights, recall)
    favourite = data.draw(st.integers(0, len(weights) - 1))
    probabilities = choice.probabilities(favourite)
    assert math.fsum(probabilities) == pytest.approx(1)
    nats = [choice.nats(item, favourite) for item in range(len(weights))]
    assert nats == pytest.approx([-math.log(probability) for probability in probabilities], abs=1e-12)
    expected = math.fsum(p * n for p, n in zip(probabilities, nats, strict=True))
    assert choice.entropy(favourite) == pytest.approx(expected, abs=1e-9)


def test_draws_follow_the_probabilities() -> None:
    """Over an even grid of the two uniform numbers that a draw uses, shares are the probabilities exactly."""
    choice = Choice([5, 3, 2], recall=0.25)
    grid = [(step + 0.5) / 200 for step in range(200)]
    counts = Counter(choice.draw(iter(pair).__next__, favourite=2) for pair in product(grid, grid))
    shares = [counts[item] / len(grid) ** 2 for item in range(3)]
    assert shares == pytest.approx(choice.probabilities(2), abs=1e-12)
    assert shares == pytest.approx([0.375, 0.225, 0.4], abs=1e-12)


def test_the_embedded_model_was_trained_on_this_very_language() -> None:
    """A change to lexicon or grammar makes the shipped model stale: train it again with training/train_tiny.py."""
    record = json.loads((TINY_MODEL / "training.json").read_text())
    documents = generate(0, record["held_out_documents"], "validation")
    ideal = math.fsum(document.nats for document in documents) / record["held_out_tokens"]
    assert record["language_seed"] == LANGUAGE_SEED
    assert record["held_out_ideal"] == pytest.approx(ideal, rel=1e-9)
    assert record["entropy_nats_per_document"] == pytest.approx(entropy(), rel=1e-9)
    assert record["held_out_whole_documents_loss"] > record["held_out_whole_documents_ideal"]
