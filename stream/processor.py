"""One micro-batch: records, states and a model in; states, answers and dead letters out. Pure.

The promise kept here: every state equals the one obtained by applying each click exactly once, however the clicks
are cut into batches and however often they come again.

Letters: C clicks of the batch, S lives (a session, or what follows its expiry), W state width, k answer items.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from model.baselines.popularity import Popularity
from model.clicks import continues_session, decode_click
from model.errors import InvalidClickError
from model.recommender import Forward, Recommender
from model.vocabulary import UNKNOWN_ROW, fingerprint
from stream.micro_batch import MicroBatch, SessionKey
from stream.online_evaluation import OnlineEvaluation, compile_evaluation, evaluate
from stream.recommendation_json import DECIMALS, AskedBatch, recommendations_as_json
from stream.records import POPULARITY, Answer, DeadLetter, SourceRecord, encode_recommendation
from stream.session import NO_HIDDEN, Session

LoadSessions = Callable[[Sequence[SessionKey]], Sequence[Session | None]]


@dataclass(frozen=True)
class Outcome:
    """What one micro-batch leads to; nothing of it has happened yet.

    Attributes:
        sessions: The session record after its last click of the batch, by (partition, key).
        answers: One per valid record, in the order of the records.
        dead_letters: One per invalid record.
        evaluations: One per version whose answers were met.
        version: The version that served the whole batch, or `POPULARITY`.
        applied: Clicks that advanced a state.
        replayed: Clicks at or before their session's fence: state kept, answer sent again.
        unknown: Items of the applied clicks that the version does not know, one for each click.
        started: Sessions that began (a new id, or one whose last session had ended).
        first_seen: Sessions that had no record before.
        forward_s: Seconds that the network and the top k took.
    """

    sessions: Mapping[SessionKey, Session]
    answers: Sequence[Answer]
    dead_letters: Sequence[DeadLetter]
    evaluations: Sequence[OnlineEvaluation]
    version: str
    applied: int
    replayed: int
    unknown: Sequence[str]
    started: int
    first_seen: int
    forward_s: float


class Processor:
    """Applies micro-batches of clicks to session states and answers each click.

    Args:
        top_k: Items per answer.
        idle_ms: Event time after which a session ends.
        popularity: What is popular in this worker's stream: answers before the first version, and the sessions of
            which the version knows no item.
    """

    def __init__(self, *, top_k: int, idle_ms: int, popularity: Popularity) -> None:
        self._top_k = top_k
        self._idle_ms = idle_ms
        self._popularity = popularity
        # It keeps the leaders up to date from here on; asked only when some click needs them, it would look through
        # all items in the middle of a batch.
        popularity.top_k(top_k)
        compile_evaluation()

    def process(
        self,
        records: Sequence[SourceRecord],
        load: LoadSessions,
        recommender: Recommender | None,
        now_ms: int,
    ) -> Outcome:
        """Apply `records` in order and answer each of them.

        Args:
            records: Records of the clicks topic; those of one partition in offset order.
            load: Returns the stored sessions of the given keys, None where there is none.
            recommender: The version that serves this batch; None before the first.
            now_ms: Wall clock for `generated_at`, ms since the Unix epoch.

        Raises:
            DamagedSessionError: A stored record cannot be read.
        """
        batch = MicroBatch()
        self._decode(records, batch)
        self._load(load, recommender, batch)
        self._apply(recommender, batch)
        answers, fingerprints = self._answer(batch, recommender, now_ms)
        return Outcome(
            sessions={key: life.session for key, life in batch.current.items()},
            answers=answers,
            dead_letters=batch.dead_letters,
            evaluations=evaluate(batch, [answer.version for answer in answers], fingerprints),
            version=recommender.version if recommender else POPULARITY,
            applied=len(batch.valid) - batch.replayed,
            replayed=batch.replayed,
            unknown=batch.unknown,
            started=batch.started,
            first_seen=batch.first_seen,
            forward_s=batch.forward_s,
        )

    def _decode(self, records: Sequence[SourceRecord], batch: MicroBatch) -> None:
        for record in records:
            try:
                batch.valid.append((record, decode_click(record.key, record.value, record.timestamp_ms)))
            except InvalidClickError as error:
                batch.dead_letters.append(DeadLetter.of(record, error))

    def _load(self, load: LoadSessions, recommender: Recommender | None, batch: MicroBatch) -> None:
        # A click's key is its session id, so there is one.
        batch.keys = [(record.partition, cast("bytes", record.key)) for record, _ in batch.valid]
        keys = list(dict.fromkeys(batch.keys))
        for key, stored in zip(keys, load(keys), strict=True):
            if stored is None:
                batch.first_seen += 1
                batch.begin(key, Session(partition=key[0]))
                continue
            life = batch.begin(key, stored)
            stale = recommender is not None and (stored.version != recommender.version or stored.last_row < 0)
            if recommender and (stale or recommender.companion):
                life.before = recommender.vocabulary.rows(stored.items()).tolist()
            if stale:
                life.encode = [row for row in life.before if row >= 0]
                stored.last_row = life.encode[-1] if life.encode else -1
            life.last_row = stored.last_row

    def _apply(self, recommender: Recommender | None, batch: MicroBatch) -> None:
        """Advance each click's session, or recognise the click as a replay.

        One loop and no calls where it can do without: it runs once a click, in Python.
        """
        idle_ms, current, clicked = self._idle_ms, batch.current, []
        item_ids = [click.item_id for _, click in batch.valid]
        batch.rows = recommender.vocabulary.rows(item_ids).tolist() if recommender else [UNKNOWN_ROW] * len(item_ids)
        for position, ((record, click), key, row) in enumerate(zip(batch.valid, batch.keys, batch.rows, strict=True)):
            life = current[key]
            session = life.session
            replayed = record.offset <= session.offset
            ended = session.clicks and not continues_session(session.event_ms, click.timestamp_ms, idle_ms)
            if ended and not replayed:
                life = batch.begin(key, Session(partition=record.partition))
                session = life.session
            batch.slots.append(life.slot)
            batch.applied.append(not replayed)
            if replayed:
                batch.replayed += 1
            else:
                if session.clicks:
                    batch.evaluated.append(position)
                    batch.previous.append(life.answered if life.answered >= 0 else -1 - life.slot)
                else:
                    batch.started += 1
                if row >= 0:
                    session.last_row = row
                else:
                    batch.unknown.append(click.item_id)
                session.offset = record.offset
                session.event_ms = max(session.event_ms, click.timestamp_ms)
                session.clicks += 1
                session.append_item(click.item_id)
                clicked.append(click.item_id)
            life.answered = position
        self._popularity.add_many(clicked)

    def _answer(
        self, batch: MicroBatch, recommender: Recommender | None, now_ms: int
    ) -> tuple[list[Answer], NDArray[np.uint32]]:
        """Return one answer per valid record and the fingerprints of its items, uint32 [C, k]; 0 past the last."""
        count = len(batch.valid)
        fingerprints = np.zeros((count, self._top_k), np.uint32)
        by_model, texts, version = [False] * count, [b""] * count, POPULARITY
        if recommender and count:
            version, vocabulary, lasting_items = recommender.version, recommender.vocabulary, recommender.lasting_items
            forward = self._forward(batch, recommender)
            by_model = forward.known.tolist()
            fingerprints[:, : forward.top_rows.shape[1]] = vocabulary.fingerprints[forward.top_rows]
            texts = self._as_json(batch, forward, recommender, now_ms)
        if not all(by_model):
            popular_items, popular_scores = self._popularity.top_k(self._top_k)
            shown = np.zeros(self._top_k, np.uint32)
            shown[: len(popular_items)] = [fingerprint(item) for item in popular_items]
            for position in np.flatnonzero(np.logical_not(by_model)).tolist():
                fingerprints[position] = shown
                texts[position] = encode_recommendation(
                    *batch.valid[position], popular_items, popular_scores, version=POPULARITY, generated_at=now_ms
                )
        for life in batch.lives:
            if life.answered >= 0:
                life.session.answer = fingerprints[life.answered]
                if by_model[life.answered]:
                    life.session.version, life.session.hidden = version, forward.states[life.slot]
                    if life.session.last_row >= lasting_items:
                        life.session.last_row = -1
                else:
                    life.session.version, life.session.hidden, life.session.last_row = "", NO_HIDDEN, -1
        answers = [
            Answer(record, version if is_by_model else POPULARITY, text)
            for (record, _), is_by_model, text in zip(batch.valid, by_model, texts, strict=True)
        ]
        return answers, fingerprints

    @staticmethod
    def _as_json(batch: MicroBatch, forward: Forward, recommender: Recommender, now_ms: int) -> list[bytes]:
        """Return the version's recommendation after each click."""
        asked = AskedBatch(
            keys=[key for _, key in batch.keys],
            partitions=[partition for partition, _ in batch.keys],
            offsets=[record.offset for record, _ in batch.valid],
            rows=batch.rows,
            timestamps_ms=[click.timestamp_ms for _, click in batch.valid],
        )
        version, vocabulary, ids = recommender.version, recommender.vocabulary, recommender.vocabulary.json_ids
        top_rows, scores = forward.top_rows, forward.scores
        texts = recommendations_as_json(asked, top_rows, scores, ids, version=version, generated_at=now_ms)
        for position in [position for position, text in enumerate(texts) if not text]:
            items = [vocabulary.item_ids[row] for row in top_rows[position].tolist()]
            rounded = np.round(scores[position].astype(np.float64), DECIMALS).tolist()
            texts[position] = encode_recommendation(
                *batch.valid[position], items, rounded, version=version, generated_at=now_ms
            )
        return texts

    def _forward(self, batch: MicroBatch, recommender: Recommender) -> Forward:
        started_s = time.perf_counter()
        forward = recommender.forward(
            self._states(batch, recommender),
            np.array([life.last_row for life in batch.lives]),
            np.array(batch.slots),
            np.where(batch.applied, batch.rows, UNKNOWN_ROW),  # a replay advances nothing
            self._top_k,
            played=batch.played() if recommender.companion else None,
        )
        batch.forward_s = time.perf_counter() - started_s
        return forward

    def _states(self, batch: MicroBatch, recommender: Recommender) -> NDArray[np.float32]:
        """Return the hidden vectors that the batch starts from, [S, W]; those of other versions encoded again."""
        states = np.zeros((len(batch.lives), recommender.state_width), np.float32)
        stale = []
        for life in batch.lives:
            if life.encode is not None:
                stale.append(life)
            elif len(life.session.hidden):
                states[life.slot] = life.session.hidden
        if stale:
            states[[life.slot for life in stale]] = recommender.encode([life.encode or [] for life in stale])
        return states
